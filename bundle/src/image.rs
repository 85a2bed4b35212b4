//! The arm64 kernel `Image` header.
//! Source: Linux, Documentation/arch/arm64/booting.rst, "Call the kernel image".

use core::fmt;

/// Bytes of the header.
pub const HEADER_SIZE: usize = 64;
/// "ARM\x64", the header's magic at byte 0x38.
pub const MAGIC: &[u8; 4] = b"ARM\x64";
const MAGIC_OFFSET: usize = 0x38;
/// The image is to be placed `text_offset` bytes from a multiple of this.
pub const ALIGN: u64 = 2 << 20;

/// What an arm64 `Image` says about itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    /// Bytes from a 2 MiB boundary to the image's first byte.
    pub text_offset: u64,
    /// Bytes of memory it needs from there, including what is not in the file (BSS). Never 0.
    pub image_size: u64,
    /// The kernel's page size in bytes, if it says.
    pub page_size: Option<u64>,
    /// True if any 2 MiB boundary in RAM will do; false for kernels before 4.6, which lose the
    /// memory below them.
    pub anywhere: bool,
}

/// Why a file is not an arm64 `Image` that can be started.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Error {
    /// Fewer bytes than a header has.
    Short(usize),
    /// The magic at byte 0x38 is missing; the file is something else, if known what.
    NotImage(Option<&'static str>),
    /// Flag bit 0: a big-endian kernel.
    BigEndian,
    /// image_size is 0: a kernel older than 3.17, which does not say how much memory it needs.
    NoSize,
    /// text_offset is not below 2 MiB.
    TextOffset(u64),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Short(size) => {
                write!(
                    f,
                    "only {size} bytes, an arm64 Image has a header of {HEADER_SIZE}"
                )
            }
            Self::NotImage(Some(found)) => write!(f, "not an arm64 Image but {found}"),
            Self::NotImage(None) => {
                write!(f, "not an arm64 Image (no \"ARM\\x64\" at byte 0x38)")
            }
            Self::BigEndian => write!(
                f,
                "a big-endian arm64 Image, only little-endian is supported"
            ),
            Self::NoSize => {
                write!(
                    f,
                    "image_size in the arm64 Image header is 0 (kernel older than 3.17)"
                )
            }
            Self::TextOffset(offset) => {
                write!(
                    f,
                    "text_offset {offset:#x} in the arm64 Image header is not below 2 MiB"
                )
            }
        }
    }
}

impl core::error::Error for Error {}

impl Header {
    /// Reads and checks the header at the start of `kernel`.
    pub fn read(kernel: &[u8]) -> Result<Self, Error> {
        // Compressed kernels first: a name for what it is beats "too short".
        if kernel.get(MAGIC_OFFSET..).and_then(|b| b.get(..4)) != Some(MAGIC) {
            return Err(match other_format(kernel) {
                None if kernel.len() < HEADER_SIZE => Error::Short(kernel.len()),
                found => Error::NotImage(found),
            });
        }
        let header = kernel
            .first_chunk::<HEADER_SIZE>()
            .ok_or(Error::Short(kernel.len()))?;
        let word = |at: usize| {
            let bytes = header.get(at..).and_then(|b| b.first_chunk::<8>());
            u64::from_le_bytes(bytes.copied().unwrap_or_default())
        };
        let (text_offset, image_size, flags) = (word(8), word(16), word(24));
        if flags & 1 != 0 {
            return Err(Error::BigEndian);
        }
        if image_size == 0 {
            return Err(Error::NoSize);
        }
        if text_offset >= ALIGN {
            return Err(Error::TextOffset(text_offset));
        }
        let page_size = match flags >> 1 & 3 {
            1 => Some(4 << 10),
            2 => Some(16 << 10),
            3 => Some(64 << 10),
            _ => None,
        };
        Ok(Self {
            text_offset,
            image_size,
            page_size,
            anywhere: flags & 8 != 0,
        })
    }
}

/// Names the formats that people hand over by mistake, by their first bytes.
fn other_format(file: &[u8]) -> Option<&'static str> {
    Some(match file {
        [0x1f, 0x8b, ..] => "gzip-compressed data: unpack it first (gunzip)",
        [0xfd, b'7', b'z', b'X', b'Z', ..] => "xz-compressed data: unpack it first (unxz)",
        [0x28, 0xb5, 0x2f, 0xfd, ..] => "zstd-compressed data: unpack it first (unzstd)",
        [b'B', b'Z', b'h', ..] => "bzip2-compressed data: unpack it first (bunzip2)",
        [b'M', b'Z', _, _, b'z', b'i', b'm', b'g', ..] => {
            "an EFI zboot image (vmlinuz.efi): take the Image it was made from"
        }
        [0x7f, b'E', b'L', b'F', ..] => "an ELF file: take arch/arm64/boot/Image, not vmlinux",
        [0x27, 0x05, 0x19, 0x56, ..] => "a U-Boot uImage: take the Image it was made from",
        [0xd0, 0x0d, 0xfe, 0xed, ..] => "a device tree or FIT image",
        _ => {
            // The x86 boot sector's "HdrS" (Documentation/arch/x86/boot.rst).
            if file.get(0x202..).is_some_and(|b| b.starts_with(b"HdrS")) {
                "an x86 kernel"
            } else {
                return None;
            }
        }
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use alloc::vec::Vec;
    use proptest::prelude::*;

    /// An `Image` of `len` bytes with these header fields.
    pub(crate) fn image(text_offset: u64, image_size: u64, flags: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len.max(HEADER_SIZE)];
        bytes[8..16].copy_from_slice(&text_offset.to_le_bytes());
        bytes[16..24].copy_from_slice(&image_size.to_le_bytes());
        bytes[24..32].copy_from_slice(&flags.to_le_bytes());
        bytes[MAGIC_OFFSET..HEADER_SIZE - 4].copy_from_slice(MAGIC);
        bytes
    }

    #[test]
    fn the_fields_are_where_linux_puts_them() {
        let header = Header::read(&image(0x8_0000, 0x123_4567, 0b1010, 100)).unwrap();
        assert_eq!(
            header,
            Header {
                text_offset: 0x8_0000,
                image_size: 0x123_4567,
                page_size: Some(4096),
                anywhere: true
            }
        );
        assert_eq!(Header::read(&image(0, 1, 0, 64)).unwrap().page_size, None);
        assert_eq!(
            Header::read(&image(0, 1, 0b110, 64)).unwrap().page_size,
            Some(65536)
        );
        assert!(!Header::read(&image(0, 1, 0, 64)).unwrap().anywhere);
    }

    #[test]
    fn what_cannot_be_started_is_refused_by_its_name() {
        assert_eq!(Header::read(&image(0, 1, 1, 64)), Err(Error::BigEndian));
        assert_eq!(Header::read(&image(0, 0, 0, 64)), Err(Error::NoSize));
        assert_eq!(
            Header::read(&image(ALIGN, 1, 0, 64)),
            Err(Error::TextOffset(ALIGN))
        );
        assert_eq!(Header::read(b""), Err(Error::Short(0)));
        assert_eq!(
            Header::read(&image(0, 1, 0, 64)[..63]),
            Err(Error::Short(63))
        );
        assert_eq!(Header::read(&[0; 64]), Err(Error::NotImage(None)));
        let gzip = Header::read(b"\x1f\x8b\x08").unwrap_err();
        assert!(gzip.to_string().contains("gunzip"), "{gzip}");
        let zboot = Header::read(b"MZ\0\0zimg").unwrap_err();
        assert!(zboot.to_string().contains("zboot"), "{zboot}");
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            let _ = Header::read(&bytes);
        }

        #[test]
        fn any_header_fields_are_read_without_panic(t: u64, s: u64, f: u64) {
            if let Ok(header) = Header::read(&image(t, s, f, 64)) {
                prop_assert!(header.image_size != 0 && header.text_offset < ALIGN);
            }
        }
    }
}
