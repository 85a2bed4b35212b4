//! What a hypercall answers when it refuses, and who is to blame.

/// Why the corevisor refused a hypercall. Travels as a negative `i64` in x0.
///
/// An error leaves the corevisor's state as it was before the call, but for VM_DESTROY ([`Self::Busy`],
/// [`Self::Again`]: what is done stays done) and VM_START ([`Self::Busy`]: virtual time may be set). A call on a
/// range that gets part of the way answers success, and in x1 how many frames it has done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(i64)]
pub enum Error {
    /// The function number is not one of [`crate::HostCall`]. Same value as SMCCC NOT_SUPPORTED.
    NotSupported = -1,
    /// An argument is malformed: unaligned, zero or too long, wraps around, or has unknown bits.
    Invalid = -2,
    /// The frame is not in a state that allows this, or belongs to somebody else.
    Denied = -3,
    /// No VM, vCPU or CPU answers to this handle or index.
    NotFound = -4,
    /// The corevisor's own reserve (page tables, VM or vCPU slots) is used up. Free some and retry.
    NoMemory = -5,
    /// Another CPU is at work on the same object, or a vCPU is running. Retry later.
    Busy = -6,
    /// The IPA already maps something, or there is such a vCPU.
    Exists = -7,
    /// The object's life-cycle state forbids this (not started, stopped, being destroyed).
    BadState = -8,
    /// The vCPU's FP/SIMD registers live on another CPU: issue VCPU_PUT there first.
    Elsewhere = -9,
    /// More work is left: repeat the same call.
    Again = -10,
}

impl Error {
    /// The value that travels in x0.
    #[must_use]
    pub const fn code(self) -> i64 {
        self as i64
    }

    /// Reads x0 of an answer: `Ok(())` for zero; an unknown negative code counts as
    /// [`Error::NotSupported`].
    pub const fn check(x0: u64) -> Result<(), Self> {
        Err(match x0.cast_signed() {
            0 => return Ok(()),
            -2 => Self::Invalid,
            -3 => Self::Denied,
            -4 => Self::NotFound,
            -5 => Self::NoMemory,
            -6 => Self::Busy,
            -7 => Self::Exists,
            -8 => Self::BadState,
            -9 => Self::Elsewhere,
            -10 => Self::Again,
            _ => Self::NotSupported,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::Error;

    #[test]
    fn every_error_survives_the_register() {
        for (e, code) in [
            Error::NotSupported,
            Error::Invalid,
            Error::Denied,
            Error::NotFound,
            Error::NoMemory,
            Error::Busy,
            Error::Exists,
            Error::BadState,
            Error::Elsewhere,
            Error::Again,
        ]
        .into_iter()
        .zip((-10..0).rev())
        {
            assert_eq!(e.code(), code);
            assert_eq!(Error::check(e.code().cast_unsigned()), Err(e));
        }
        assert_eq!(Error::check(0), Ok(()));
        assert_eq!(Error::check(5), Err(Error::NotSupported));
    }
}
