//! Where a VM's kernel, device tree and initrd go in its memory. Pure planning; nothing is copied.
//!
//! Linux: arm64 boot protocol (Linux, Documentation/arch/arm64/booting.rst): `Image` at `text_offset`
//! from a 2 MiB boundary, device tree of at most 2 MiB on a boundary of its own, initrd behind it.
//! Flat: as QEMU's `virt` board places a raw `-kernel` file, at RAM base + 0x80000.

use crate::image;
use crate::manifest::{Format, Manifest};
use abi::Ipa;
use core::fmt;

/// Where a VM's RAM starts.
pub const RAM_BASE: Ipa = Ipa(0x4000_0000);
/// Largest device tree, and the slot that is kept for it.
pub const FDT_MAX: u64 = 2 << 20;
/// Linux: bytes from [`RAM_BASE`] to the 2 MiB boundary that `text_offset` counts from.
pub const LINUX_OFFSET: u64 = 2 << 20;
/// Flat: bytes from [`RAM_BASE`] to the image.
pub const FLAT_OFFSET: u64 = 0x8_0000;
/// Flat: bytes from [`RAM_BASE`] to the device tree.
pub const FLAT_FDT_OFFSET: u64 = 64 << 20;

/// A range of a VM's memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Region {
    /// First address.
    pub base: Ipa,
    /// Bytes.
    pub size: u64,
}

impl Region {
    /// First address behind it. The layouts that [`plan`] makes never wrap around.
    #[must_use]
    pub const fn end(self) -> Ipa {
        Ipa(self.base.0.saturating_add(self.size))
    }
}

/// Where everything goes. No two of kernel, fdt and initrd overlap, and all lie in `ram`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Layout {
    /// All RAM of the VM.
    pub ram: Region,
    /// The kernel, with the memory it needs behind its file (BSS).
    pub kernel: Region,
    /// The slot of the device tree, [`FDT_MAX`] bytes: x0 of the first vCPU.
    pub fdt: Region,
    /// The initrd, as long as its file, if there is one.
    pub initrd: Option<Region>,
    /// Where the first vCPU starts.
    pub entry: Ipa,
}

/// Why a VM's files cannot be placed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Error {
    /// A Linux kernel that is none.
    Image(image::Error),
    /// The kernel file is empty.
    NoKernel,
    /// The device tree is larger than [`FDT_MAX`].
    FdtTooLarge(u64),
    /// The part ends behind the VM's memory.
    DoesNotFit {
        /// "kernel", "device tree" or "initrd".
        part: &'static str,
        /// Its size in bytes.
        size: u64,
        /// Where it would start.
        base: Ipa,
        /// Least memory, in bytes, with which it fits.
        needed: u64,
        /// Memory the VM has.
        memory: u64,
    },
    /// A flat kernel reaches into the device tree's place.
    FlatKernelTooLarge {
        /// Its size in bytes.
        size: u64,
        /// Bytes there is place for.
        most: u64,
    },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Image(error) => write!(f, "kernel: {error}"),
            Self::NoKernel => write!(f, "kernel: the file is empty"),
            Self::FdtTooLarge(size) => {
                write!(
                    f,
                    "device tree: {size} bytes, at most {FDT_MAX} are allowed"
                )
            }
            Self::DoesNotFit {
                part,
                size,
                base,
                needed,
                memory,
            } => write!(
                f,
                "memory: {} MiB is too little, the {part} of {size} bytes at {base:#x} needs at least {} MiB",
                memory >> 20,
                needed >> 20,
            ),
            Self::FlatKernelTooLarge { size, most } => write!(
                f,
                "kernel: {size} bytes, at most {most} fit between {:#x} and the device tree",
                RAM_BASE.0.saturating_add(FLAT_OFFSET)
            ),
        }
    }
}

impl core::error::Error for Error {}

/// Plans a VM's memory.
///
/// The addresses do not depend on `fdt_len`, so that a tree that names them can be made afterwards:
/// pass [`FDT_MAX`] then. A device tree and an initrd of any length up to theirs fit where the layout
/// says.
pub fn plan(
    manifest: &Manifest,
    kernel: &[u8],
    initrd_len: u64,
    fdt_len: u64,
) -> Result<Layout, Error> {
    let memory = manifest.memory;
    if kernel.is_empty() {
        return Err(Error::NoKernel);
    }
    if fdt_len > FDT_MAX {
        return Err(Error::FdtTooLarge(fdt_len));
    }
    let file = kernel.len() as u64;
    let (kernel, fdt_offset) = match manifest.format {
        Format::Linux => {
            let header = image::Header::read(kernel).map_err(Error::Image)?;
            let base = LINUX_OFFSET.saturating_add(header.text_offset);
            // The file may be longer than the image: a signature at its end (EFI secure boot).
            let kernel = place("kernel", base, header.image_size.max(file), memory)?;
            // Saturates only for a memory size that no manifest has; the tree does not fit then.
            let end = base.saturating_add(kernel.size);
            (
                kernel,
                end.checked_next_multiple_of(image::ALIGN)
                    .unwrap_or(u64::MAX),
            )
        }
        Format::Flat => {
            let most = FLAT_FDT_OFFSET.saturating_sub(FLAT_OFFSET);
            if file > most {
                return Err(Error::FlatKernelTooLarge { size: file, most });
            }
            (place("kernel", FLAT_OFFSET, file, memory)?, FLAT_FDT_OFFSET)
        }
    };
    let fdt = place("device tree", fdt_offset, FDT_MAX, memory)?;
    let initrd = match initrd_len {
        0 => None,
        size => Some(place(
            "initrd",
            fdt_offset.saturating_add(FDT_MAX),
            size,
            memory,
        )?),
    };
    let ram = Region {
        base: RAM_BASE,
        size: memory,
    };
    Ok(Layout {
        ram,
        kernel,
        fdt,
        initrd,
        entry: kernel.base,
    })
}

/// `size` bytes, `offset` bytes from the start of RAM, if they are inside.
fn place(part: &'static str, offset: u64, size: u64, memory: u64) -> Result<Region, Error> {
    let end = offset.checked_add(size).filter(|&end| end <= memory);
    match (RAM_BASE.checked_add(offset), end) {
        (Some(base), Some(end)) if RAM_BASE.checked_add(end).is_some() => Ok(Region { base, size }),
        _ => {
            let needed = offset
                .checked_add(size)
                .and_then(|end| end.checked_next_multiple_of(crate::manifest::MEMORY_ALIGN))
                .unwrap_or(u64::MAX);
            let base = Ipa(RAM_BASE.0.saturating_add(offset));
            Err(Error::DoesNotFit {
                part,
                size,
                base,
                needed,
                memory,
            })
        }
    }
}

#[cfg(test)]
#[path = "layout_tests.rs"]
mod tests;
