//! A fast 64-bit hash over words. States that differ are told apart but for accidents of about
//! n² / 2^65.

/// The hash so far.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Hash(pub u64);

impl Hash {
    /// Of nothing, for one purpose.
    #[must_use]
    pub const fn new(purpose: u64) -> Self {
        Self(0x9E37_79B9_7F4A_7C15 ^ purpose)
    }

    /// With one more word.
    #[inline]
    #[must_use]
    pub const fn word(self, word: u64) -> Self {
        let product = ((self.0 ^ word) as u128).wrapping_mul(0xD6E8_FEB8_6659_FD93);
        let folded = (product >> 64) as u64 ^ (product as u64).rotate_left(29);
        Self(folded.wrapping_add(0xE703_7ED1_A0B4_28DB))
    }

    /// With more words.
    #[inline]
    #[must_use]
    pub fn words(self, words: impl IntoIterator<Item = u64>) -> Self {
        words.into_iter().fold(self, Self::word)
    }
}
