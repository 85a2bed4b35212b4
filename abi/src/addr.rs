//! Address newtypes. Mixing physical and intermediate-physical addresses must not compile.

use core::fmt;

/// log2 of [`PAGE_SIZE`].
pub const PAGE_SHIFT: u32 = 12;
/// The stage-2 granule and the unit of ownership, in bytes.
pub const PAGE_SIZE: u64 = 1 << PAGE_SHIFT;

macro_rules! address {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        #[repr(transparent)]
        pub struct $name(pub u64);

        impl $name {
            /// True if this is a multiple of `align`, which must be a power of two.
            #[must_use]
            pub const fn is_aligned(self, align: u64) -> bool {
                self.0 & (align.wrapping_sub(1)) == 0
            }

            /// This address plus `bytes`, or `None` where it would wrap around 2^64.
            #[must_use]
            pub const fn checked_add(self, bytes: u64) -> Option<Self> {
                match self.0.checked_add(bytes) {
                    Some(sum) => Some(Self(sum)),
                    None => None,
                }
            }

            /// The start of the 4 KiB page this address lies in.
            #[must_use]
            pub const fn page_base(self) -> Self {
                Self(self.0 & !(PAGE_SIZE - 1))
            }

            /// The number of the 4 KiB page this address lies in.
            #[must_use]
            pub const fn page_number(self) -> u64 {
                self.0 >> PAGE_SHIFT
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({:#x})"), self.0)
            }
        }

        impl fmt::LowerHex for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::LowerHex::fmt(&self.0, f)
            }
        }
    };
}

address! {
    /// A physical address: what leaves stage 2 (Arm ARM "output address").
    PhysAddr
}
address! {
    /// An intermediate physical address: what a guest, or the hostvisor, believes is physical.
    Ipa
}

/// The number of a 4 KiB physical frame: physical address / 4096.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
#[repr(transparent)]
pub struct Pfn(pub u64);

impl Pfn {
    /// The frame that holds `addr`.
    #[must_use]
    pub const fn of(addr: PhysAddr) -> Self {
        Self(addr.0 >> PAGE_SHIFT)
    }

    /// The frame's first byte. Frame numbers above 2^52 lose their upper bits: check ranges first.
    #[must_use]
    pub const fn base(self) -> PhysAddr {
        PhysAddr(self.0 << PAGE_SHIFT)
    }

    /// The frame `frames` further on, or `None` where the number would wrap.
    #[must_use]
    pub const fn checked_add(self, frames: u64) -> Option<Self> {
        match self.0.checked_add(frames) {
            Some(sum) => Some(Self(sum)),
            None => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_and_frames_are_4_kib() {
        let address = PhysAddr(0x12_3456);
        assert_eq!((PAGE_SIZE, address.page_number()), (4096, 0x123));
        assert_eq!(address.page_base(), PhysAddr(0x12_3000));
        assert_eq!(Pfn::of(address), Pfn(0x123));
        assert_eq!(Pfn(0x123).base(), PhysAddr(0x12_3000));
        assert!(PhysAddr(0x12_3000).is_aligned(PAGE_SIZE) && !address.is_aligned(4));
    }

    #[test]
    fn nothing_wraps() {
        assert_eq!(Ipa(u64::MAX).checked_add(1), None);
        assert_eq!(Ipa(u64::MAX - 1).checked_add(1), Some(Ipa(u64::MAX)));
        assert_eq!(Pfn(u64::MAX).checked_add(1), None);
        assert_eq!(Pfn(5).checked_add(1), Some(Pfn(6)));
    }
}
