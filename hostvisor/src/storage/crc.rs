//! CRC-32 as in IEEE 802.3, zip and GUID partition tables: what `crc32`, `gzip -l -v` and Python's `zlib` compute.

/// Reflected polynomial.
const POLYNOMIAL: u32 = 0xedb8_8320;

const TABLE: [u32; 256] = {
    let mut table = [0; 256];
    let mut i = 0;
    while i < 256 {
        let mut value = i as u32;
        let mut bit = 0;
        while bit < 8 {
            value = value >> 1 ^ if value & 1 == 0 { 0 } else { POLYNOMIAL };
            bit += 1;
        }
        table[i] = value;
        i += 1;
    }
    table
};

/// A checksum under way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Crc32(u32);

impl Default for Crc32 {
    fn default() -> Self {
        Self::new()
    }
}

impl Crc32 {
    /// Of nothing yet.
    #[must_use]
    pub(super) const fn new() -> Self {
        Self(u32::MAX)
    }

    /// Goes on with `bytes`.
    pub(super) fn update(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            let entry = TABLE[usize::from(self.0 as u8 ^ byte)];
            self.0 = self.0 >> 8 ^ entry;
        }
    }

    /// The checksum.
    #[must_use]
    pub(super) const fn value(self) -> u32 {
        !self.0
    }
}

/// The checksum of `bytes`.
#[must_use]
pub(super) fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = Crc32::new();
    crc.update(bytes);
    crc.value()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_the_usual_one() {
        assert_eq!(crc32(b""), 0);
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
    }

    #[test]
    fn pieces_are_as_good_as_the_whole() {
        let mut crc = Crc32::new();
        crc.update(b"1234");
        crc.update(b"56789");
        assert_eq!(crc.value(), 0xcbf4_3926);
    }
}
