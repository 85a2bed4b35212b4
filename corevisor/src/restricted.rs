//! MMIO that the hostvisor must not reach, or may only read: what can write memory or reach past the
//! core (GIC virtualisation registers, ITS, redistributor LPI tables, SMMUs).

use abi::{Error, PhysAddr};
use arch::descriptor::Access;

/// Most restricted regions a machine may have: what firmware reserves, two for each CPU's
/// redistributor, translation services and other devices that write memory or reach into processors.
pub const MAX_RESTRICTED: usize = 96;

/// A range of MMIO and what is left of it for the hostvisor.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Restricted {
    /// First byte.
    pub base: PhysAddr,
    /// Bytes; a page that is in it with one byte is restricted as a whole.
    pub size: u64,
    /// [`Access::None`] or [`Access::ReadOnly`].
    pub access: Access,
}

impl Restricted {
    fn overlaps(&self, base: PhysAddr, size: u64) -> bool {
        let (end, own_end) = (
            base.0.saturating_add(size),
            self.base.0.saturating_add(self.size),
        );
        self.base.0 < end && base.0 < own_end
    }
}

/// All restricted regions of the machine.
pub struct RestrictedRegions {
    regions: [Option<Restricted>; MAX_RESTRICTED],
}

impl RestrictedRegions {
    /// Keeps a copy of `regions`; [`Error::Invalid`] if there are more than [`MAX_RESTRICTED`].
    pub fn new(regions: &[Restricted]) -> Result<Self, Error> {
        if regions.len() > MAX_RESTRICTED {
            return Err(Error::Invalid);
        }
        let mut kept = [None; MAX_RESTRICTED];
        for (slot, region) in kept.iter_mut().zip(regions) {
            *slot = Some(*region);
        }
        Ok(Self { regions: kept })
    }

    /// True if no restricted region reaches into `size` bytes from `base` on.
    #[must_use]
    pub fn none_in(&self, base: PhysAddr, size: u64) -> bool {
        !self
            .regions
            .iter()
            .flatten()
            .any(|region| region.overlaps(base, size))
    }

    /// The least access that any region leaves for `size` bytes from `base` on.
    #[must_use]
    pub fn access(&self, base: PhysAddr, size: u64) -> Access {
        self.regions
            .iter()
            .flatten()
            .filter(|region| region.overlaps(base, size))
            .map(|region| region.access)
            .min_by_key(|access| *access as u64)
            .unwrap_or(Access::ReadWrite)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REGIONS: [Restricted; 2] = [
        Restricted {
            base: PhysAddr(0x1000),
            size: 0x800,
            access: Access::ReadOnly,
        },
        Restricted {
            base: PhysAddr(0x1800),
            size: 0x1000,
            access: Access::None,
        },
    ];

    #[test]
    fn a_page_gets_the_least_of_what_its_bytes_get() {
        let Ok(regions) = RestrictedRegions::new(&REGIONS) else {
            unreachable!()
        };
        assert_eq!(regions.access(PhysAddr(0x0), 0x1000), Access::ReadWrite);
        assert_eq!(regions.access(PhysAddr(0x1000), 0x800), Access::ReadOnly);
        assert_eq!(regions.access(PhysAddr(0x1000), 0x1000), Access::None);
        assert_eq!(regions.access(PhysAddr(0x2000), 0x1000), Access::None);
        assert_eq!(regions.access(PhysAddr(0x3000), 0x1000), Access::ReadWrite);
        assert!(regions.none_in(PhysAddr(0x2800), 0x1000));
        assert!(!regions.none_in(PhysAddr(0), 0x20_0000));
    }

    #[test]
    fn too_many_are_refused() {
        assert!(RestrictedRegions::new(&[REGIONS[0]; MAX_RESTRICTED + 1]).is_err());
    }
}
