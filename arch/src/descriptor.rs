//! Stage-2 translation-table descriptors and the registers that select a stage-2 regime.
//!
//! 4 KiB granule, 48-bit output addresses, no hardware update of Access flag or dirty state. All of it
//! is pure encoding: nothing here reads or writes a table. Sources: Arm ARM (DDI 0487) D8.3
//! "Translation table descriptor formats", D8.2 "concatenated translation tables", D17.2 VTCR_EL2 and
//! VTTBR_EL2.

use abi::PhysAddr;

/// Descriptors in one table.
pub const ENTRIES: u64 = 512;
/// The lookup level whose leaves are 4 KiB pages.
pub const PAGE_LEVEL: u32 = 3;
/// The lookup level whose leaves are 2 MiB blocks.
pub const BLOCK_2M_LEVEL: u32 = 2;
/// The lookup level whose leaves are 1 GiB blocks: the first that has blocks at all.
pub const BLOCK_1G_LEVEL: u32 = 1;

/// Output address of a page, of a table, and (lower bits zero) of a block: bits 47:12.
const ADDRESS: u64 = 0x0000_FFFF_FFFF_F000;
const VALID: u64 = 1 << 0;
/// Set for a table (levels 0–2) and a page (level 3), clear for a block.
const TABLE_OR_PAGE: u64 = 1 << 1;
/// MemAttr, bits 5:2.
const MEM_ATTR_SHIFT: u32 = 2;
const MEM_ATTR_MASK: u64 = 0b1111 << MEM_ATTR_SHIFT;
/// Normal memory, Outer and Inner Write-Back Cacheable (FEAT_S2FWB not in use).
const MEM_ATTR_NORMAL: u64 = 0b1111;
/// Device-nGnRE.
const MEM_ATTR_DEVICE: u64 = 0b0001;
/// S2AP, bits 7:6.
const S2AP_SHIFT: u32 = 6;
const S2AP_MASK: u64 = 0b11;
/// SH, bits 9:8: Inner Shareable.
const SH_INNER: u64 = 0b11 << 8;
/// AF: the Access flag; a leaf without it faults.
const AF: u64 = 1 << 10;
/// XN, bits 54:53 = 0b10: no execution at EL1 and EL0, with or without FEAT_XNX.
const XN: u64 = 1 << 54;

/// Memory type a stage-2 leaf gives.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MemoryType {
    /// Normal, Write-Back Cacheable: RAM.
    Normal,
    /// Device-nGnRE: MMIO.
    Device,
}

/// S2AP: what a stage-2 leaf allows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u64)]
pub enum Access {
    /// Nothing; every access faults.
    None = 0b00,
    /// Loads and, unless XN, instruction fetches.
    ReadOnly = 0b01,
    /// Loads and stores.
    ReadWrite = 0b11,
}

/// What a leaf says besides its address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Attributes {
    /// Memory type.
    pub memory: MemoryType,
    /// Loads and stores allowed.
    pub access: Access,
    /// Instruction fetches allowed.
    pub execute: bool,
}

impl Attributes {
    /// RAM, everything allowed.
    pub const RAM: Self = Self {
        memory: MemoryType::Normal,
        access: Access::ReadWrite,
        execute: true,
    };
    /// MMIO: loads and stores.
    pub const DEVICE: Self = Self {
        memory: MemoryType::Device,
        access: Access::ReadWrite,
        execute: false,
    };
    /// MMIO: loads only.
    pub const DEVICE_READ_ONLY: Self = Self {
        memory: MemoryType::Device,
        access: Access::ReadOnly,
        execute: false,
    };

    const fn encode(self) -> u64 {
        let memory = match self.memory {
            MemoryType::Normal => MEM_ATTR_NORMAL,
            MemoryType::Device => MEM_ATTR_DEVICE,
        };
        let xn = if self.execute { 0 } else { XN };
        memory << MEM_ATTR_SHIFT | (self.access as u64) << S2AP_SHIFT | SH_INNER | AF | xn
    }

    const fn decode(word: u64) -> Self {
        Self {
            memory: if (word & MEM_ATTR_MASK) >> MEM_ATTR_SHIFT == MEM_ATTR_NORMAL {
                MemoryType::Normal
            } else {
                MemoryType::Device
            },
            access: match word >> S2AP_SHIFT & S2AP_MASK {
                0b11 => Access::ReadWrite,
                0b01 => Access::ReadOnly,
                _ => Access::None,
            },
            execute: word & XN == 0,
        }
    }
}

/// What a descriptor means at the level it is found at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Decoded {
    /// Faults. The other 63 bits are software's.
    Invalid,
    /// The next level's table.
    Table(PhysAddr),
    /// A page or block and its attributes.
    Leaf(PhysAddr, Attributes),
}

/// One stage-2 descriptor word.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(transparent)]
pub struct Descriptor(pub u64);

impl Descriptor {
    /// The descriptor that maps nothing.
    pub const INVALID: Self = Self(0);

    /// Maps nothing, and says that the VM knows the page as a device's.
    pub const MMIO: Self = Self(1 << 55);

    /// Points to the next level's table in the frame at `table`.
    #[must_use]
    pub const fn table(table: PhysAddr) -> Self {
        Self(table.0 & ADDRESS | TABLE_OR_PAGE | VALID)
    }

    /// Maps `output`, which must be aligned to [`leaf_size`]`(level)`, at `level` 1, 2 or 3.
    #[must_use]
    pub const fn leaf(level: u32, output: PhysAddr, attributes: Attributes) -> Self {
        let kind = if level == PAGE_LEVEL {
            TABLE_OR_PAGE | VALID
        } else {
            VALID
        };
        Self(output.0 & ADDRESS | attributes.encode() | kind)
    }

    /// True if a walk does not fault on it (at a level where its kind exists).
    #[must_use]
    pub const fn is_valid(self) -> bool {
        self.0 & VALID != 0
    }

    /// What a walker makes of this word at `level`.
    #[must_use]
    pub const fn decode(self, level: u32) -> Decoded {
        let address = PhysAddr(self.0 & ADDRESS);
        match (self.0 & VALID != 0, self.0 & TABLE_OR_PAGE != 0) {
            (true, true) if level < PAGE_LEVEL => Decoded::Table(address),
            (true, true) => Decoded::Leaf(address, Attributes::decode(self.0)),
            (true, false) if level == BLOCK_1G_LEVEL || level == BLOCK_2M_LEVEL => {
                Decoded::Leaf(address, Attributes::decode(self.0))
            }
            _ => Decoded::Invalid,
        }
    }

    /// This descriptor made invalid, its address kept where the walker does not look: how a table on
    /// its way out is still found by who frees it.
    #[must_use]
    pub const fn retired(self) -> Self {
        Self(self.0 & !VALID)
    }

    /// The table that [`Self::retired`] was made from, if this is such a word.
    #[must_use]
    pub const fn retired_table(self) -> Option<PhysAddr> {
        if self.0 & (VALID | TABLE_OR_PAGE) == TABLE_OR_PAGE {
            Some(PhysAddr(self.0 & ADDRESS))
        } else {
            None
        }
    }
}

/// log2 of the bytes one descriptor of `level` (0–3) covers.
#[must_use]
pub const fn leaf_shift(level: u32) -> u32 {
    39 - 9 * level
}

/// Bytes one descriptor of `level` (0–3) covers.
#[must_use]
pub const fn leaf_size(level: u32) -> u64 {
    1 << leaf_shift(level)
}

/// Physical address size in bits that ID_AA64MMFR0_EL1.PARange says, at most the 48 that this
/// descriptor format reaches.
#[must_use]
pub const fn pa_bits(pa_range: u64) -> u32 {
    match pa_range & 0xF {
        0 => 32,
        1 => 36,
        2 => 40,
        3 => 42,
        4 => 44,
        _ => 48,
    }
}

/// Size and shape of a stage-2 regime.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Geometry {
    /// Width of the input address.
    pub ipa_bits: u32,
    /// Level of the first lookup: 0 or 1.
    pub start_level: u32,
    /// Concatenated frames of the root table, aligned as a whole: 1 to 8.
    pub root_frames: u64,
    /// VTCR_EL2.
    pub vtcr: u64,
}

impl Geometry {
    /// A VM's regime: 39 bits from level 1, one root frame, on every machine.
    #[must_use]
    pub const fn vm(pa_range: u64) -> Self {
        Self {
            ipa_bits: 39,
            start_level: 1,
            root_frames: 1,
            vtcr: vtcr(39, pa_range, 1),
        }
    }

    /// The hostvisor's regime: as wide as physical addresses are. A level-0 root needs 44 bits of
    /// physical address (AArch64.S2InvalidSL); narrower machines concatenate level-1 tables.
    #[must_use]
    pub const fn host(pa_range: u64) -> Self {
        let ipa_bits = pa_bits(pa_range);
        let (start_level, root_frames) = match ipa_bits {
            44.. => (0, 1),
            40..=43 => (1, 1 << (ipa_bits - 39)),
            _ => (1, 1),
        };
        Self {
            ipa_bits,
            start_level,
            root_frames,
            vtcr: vtcr(ipa_bits, pa_range, start_level),
        }
    }
}

/// VTCR_EL2: 4 KiB granule, walks Inner Shareable and Write-Back, 8-bit VMIDs (VS = 0).
///
/// `pa_range` is ID_AA64MMFR0_EL1.PARange, `start_level` 0 or 1.
#[must_use]
pub const fn vtcr(ipa_bits: u32, pa_range: u64, start_level: u32) -> u64 {
    let t0sz = 64 - ipa_bits as u64;
    // SL0, 4 KiB granule: 0b10 starts at level 0, 0b01 at level 1.
    let sl0: u64 = if start_level == 0 { 0b10 } else { 0b01 };
    let irgn0_wb: u64 = 0b01;
    let orgn0_wb: u64 = 0b01;
    let sh0_inner: u64 = 0b11;
    let ps = if pa_range & 0xF > 5 {
        5
    } else {
        pa_range & 0xF
    };
    let res1: u64 = 1 << 31;
    t0sz | sl0 << 6 | irgn0_wb << 8 | orgn0_wb << 10 | sh0_inner << 12 | ps << 16 | res1
}

/// VTTBR_EL2: root table and 8-bit VMID (VTCR_EL2.VS = 0 makes bits 63:56 RES0).
#[must_use]
pub const fn vttbr(root: PhysAddr, vmid: u8) -> u64 {
    root.0 & ADDRESS | (vmid as u64) << 48
}

#[cfg(test)]
mod tests {
    use super::*;

    // The words below are put together by hand from the Arm ARM's figures.

    #[test]
    fn leaves_match_the_manual() {
        let pa = PhysAddr(0x8_4000_0000);
        // 0x7FC: MemAttr 1111 (0x3C), S2AP 11 (0xC0), SH 11 (0x300), AF (0x400).
        assert_eq!(Descriptor::leaf(3, pa, Attributes::RAM).0, 0x8_4000_07FF);
        assert_eq!(Descriptor::leaf(2, pa, Attributes::RAM).0, 0x8_4000_07FD);
        assert_eq!(Descriptor::leaf(1, pa, Attributes::RAM).0, 0x8_4000_07FD);
        // 0x7C4: MemAttr 0001 (0x4), S2AP 11, SH 11, AF; XN is bit 54.
        assert_eq!(
            Descriptor::leaf(3, PhysAddr(0x900_0000), Attributes::DEVICE).0,
            0x0040_0000_0900_07C7
        );
        assert_eq!(
            Descriptor::leaf(2, PhysAddr(0x800_0000), Attributes::DEVICE_READ_ONLY).0,
            0x0040_0000_0800_0745
        );
        let none = Attributes {
            access: Access::None,
            ..Attributes::RAM
        };
        assert_eq!(Descriptor::leaf(3, pa, none).0, 0x8_4000_073F);
        assert_eq!(Descriptor::table(PhysAddr(0x4123_4000)).0, 0x4123_4003);
    }

    #[test]
    fn decode_is_the_inverse_of_encode() {
        for memory in [MemoryType::Normal, MemoryType::Device] {
            for access in [Access::None, Access::ReadOnly, Access::ReadWrite] {
                for execute in [false, true] {
                    let attributes = Attributes {
                        memory,
                        access,
                        execute,
                    };
                    for level in 1..=3 {
                        let pa = PhysAddr(0xC0_4000_0000);
                        let leaf = Descriptor::leaf(level, pa, attributes);
                        assert_eq!(leaf.decode(level), Decoded::Leaf(pa, attributes));
                        assert_eq!(leaf.retired().decode(level), Decoded::Invalid);
                    }
                }
            }
        }
        let table = Descriptor::table(PhysAddr(0xFFFF_FFFF_F000));
        for level in 0..3 {
            assert_eq!(
                table.decode(level),
                Decoded::Table(PhysAddr(0xFFFF_FFFF_F000))
            );
            assert_eq!(table.retired().decode(level), Decoded::Invalid);
        }
        assert_eq!(
            table.retired().retired_table(),
            Some(PhysAddr(0xFFFF_FFFF_F000))
        );
        assert_eq!(table.retired_table(), None);
        assert_eq!(Descriptor::INVALID.retired_table(), None);
        let block = Descriptor::leaf(2, PhysAddr(0x4000_0000), Attributes::RAM);
        assert_eq!(block.retired().retired_table(), None);
    }

    #[test]
    fn reserved_encodings_fault() {
        // 0b01 is reserved at levels 0 and 3.
        assert_eq!(Descriptor(0x4000_07FD).decode(0), Decoded::Invalid);
        assert_eq!(Descriptor(0x4000_07FD).decode(3), Decoded::Invalid);
        assert_eq!(Descriptor(0x4000_07FE).decode(3), Decoded::Invalid);
    }

    #[test]
    fn vtcr_matches_the_manual() {
        // T0SZ 25, SL0 01, IRGN0 01, ORGN0 01, SH0 11, TG0 00, PS 100 (44 bits), RES1.
        assert_eq!(Geometry::vm(4).vtcr, 0x8004_3559);
        // Cortex-A57, 44 bits: T0SZ 20, SL0 10.
        let a57 = Geometry::host(4);
        assert_eq!(
            (a57.start_level, a57.root_frames, a57.vtcr),
            (0, 1, 0x8004_3594)
        );
        // X-Gene 1, 42 bits: T0SZ 22, SL0 01, eight level-1 tables, PS 011.
        let m400 = Geometry::host(3);
        assert_eq!(
            (m400.start_level, m400.root_frames, m400.vtcr),
            (1, 8, 0x8003_3556)
        );
        // Cortex-A53, 40 bits: two level-1 tables.
        let a53 = Geometry::host(2);
        assert_eq!(
            (a53.start_level, a53.root_frames, a53.vtcr),
            (1, 2, 0x8002_3558)
        );
        // 52 bits are used as 48.
        let max = Geometry::host(6);
        assert_eq!(
            (max.ipa_bits, max.start_level, max.vtcr),
            (48, 0, 0x8005_3590)
        );
        assert_eq!(Geometry::host(1).root_frames, 1);
        assert_eq!(Geometry::host(0).vtcr & 0x3F, 32);
    }

    #[test]
    fn vttbr_holds_root_and_vmid() {
        assert_eq!(vttbr(PhysAddr(0x8_1234_5000), 0xA5), 0x00A5_0008_1234_5000);
    }
}
