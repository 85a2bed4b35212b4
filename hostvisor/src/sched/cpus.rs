//! Sets of the machine's CPUs.

use abi::MAX_CPUS;
use core::fmt;

/// CPUs by index: bit n is CPU n, all of them below [`MAX_CPUS`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CpuSet(u32);

impl CpuSet {
    /// No CPU.
    pub const NONE: Self = Self(0);
    /// Every CPU a machine can have.
    pub const ALL: Self = Self((1 << MAX_CPUS) - 1);

    /// The CPUs whose bits are set, as far as a machine can have them.
    #[must_use]
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits as u32 & Self::ALL.0)
    }

    /// One CPU.
    #[must_use]
    pub const fn one(cpu: usize) -> Self {
        Self(1 << (cpu % MAX_CPUS))
    }

    /// As bits.
    #[must_use]
    pub const fn bits(self) -> u32 {
        self.0
    }

    /// True without any CPU.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// True if `cpu` is one of them.
    #[must_use]
    pub const fn contains(self, cpu: usize) -> bool {
        self.0 & Self::one(cpu).0 != 0
    }

    /// Those that are in both.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Those that are in one or both.
    #[must_use]
    pub const fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// `cpu` if it is one of them, else the lowest; none if there is none.
    #[must_use]
    pub const fn prefer(self, cpu: usize) -> Option<usize> {
        if self.contains(cpu) {
            Some(cpu % MAX_CPUS)
        } else if self.0 == 0 {
            None
        } else {
            Some(self.0.trailing_zeros() as usize)
        }
    }

    /// Each of them, lowest first.
    pub fn iter(self) -> impl Iterator<Item = usize> {
        (0..MAX_CPUS).filter(move |&cpu| self.contains(cpu))
    }
}

impl fmt::Display for CpuSet {
    /// As in a manifest: `0,2,3`; `all` and `none`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Self::ALL {
            return f.pad("all");
        }
        if self.is_empty() {
            return f.pad("none");
        }
        let mut separator = "";
        for cpu in self.iter() {
            write!(f, "{separator}{cpu}")?;
            separator = ",";
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    #[test]
    fn reads_as_in_a_manifest() {
        assert_eq!(CpuSet::ALL.to_string(), "all");
        assert_eq!(CpuSet::NONE.to_string(), "none");
        assert_eq!(CpuSet::from_bits(0b1101).to_string(), "0,2,3");
        // CPUs that no machine has.
        assert!(CpuSet::from_bits(1 << MAX_CPUS | 1 << 40).is_empty());
    }

    #[test]
    fn prefers_the_one_asked_for() {
        let set = CpuSet::from_bits(0b1010);
        assert_eq!(set.prefer(3), Some(3));
        assert_eq!(set.prefer(0), Some(1));
        assert_eq!(CpuSet::NONE.prefer(0), None);
    }
}
