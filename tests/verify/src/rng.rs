//! Where choices come from: a small deterministic generator (splitmix64), of which a seed names a run,
//! or the bytes of a fuzzer.

/// A source of choices.
#[derive(Clone, Debug)]
pub enum Rng<'a> {
    /// From a seed, for ever.
    Seed(u64),
    /// From bytes, until they end; zeros then.
    Bytes(&'a [u8]),
}

impl Rng<'_> {
    /// True if nothing but zeros will come.
    #[must_use]
    pub const fn is_exhausted(&self) -> bool {
        matches!(self, Self::Bytes([]))
    }

    /// 64 bits.
    pub fn word(&mut self) -> u64 {
        match self {
            Self::Seed(state) => {
                *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
                let z = (*state ^ (*state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
                let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
                z ^ (z >> 31)
            }
            Self::Bytes(bytes) => take(bytes, 8),
        }
    }

    /// Below `limit`, which is not 0.
    pub fn below(&mut self, limit: u64) -> u64 {
        match self {
            Self::Seed(_) => ((u128::from(self.word()) * u128::from(limit)) >> 64) as u64,
            // As few bytes as will do, so that a fuzzer's changes stay small.
            Self::Bytes(bytes) => take(bytes, if limit <= 256 { 1 } else { 4 }) % limit,
        }
    }

    /// True once in `n` times.
    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == n - 1
    }

    /// One of them.
    pub fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len() as u64) as usize]
    }
}

fn take(bytes: &mut &[u8], count: usize) -> u64 {
    let (taken, rest) = bytes.split_at(count.min(bytes.len()));
    *bytes = rest;
    taken
        .iter()
        .rev()
        .fold(0, |value, byte| value << 8 | u64::from(*byte))
}
