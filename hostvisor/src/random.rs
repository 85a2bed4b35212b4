//! The hostvisor's random numbers: ChaCha20, keyed anew after each use.
//!
//! Seeded from what the firmware left in the machine's tree, and from the counter. It is as good as that seed;
//! protected VMs must not rely on it, as the hostvisor is not trusted.

use crate::hw::{self, Mutex};
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

static KEY: Mutex<[u8; 32]> = Mutex::new([0; 32]);

/// Mixes `seed` in.
pub fn seed(seed: &[u8]) {
    let mut key = KEY.lock();
    for chunk in seed.chunks(32) {
        key.iter_mut().zip(chunk).for_each(|(k, s)| *k ^= s);
        step(&mut key, &mut []);
    }
}

/// Makes a key of the next 32 bytes of the stream and then answers what follows: who finds a later key cannot
/// compute what was given out before.
fn step(key: &mut [u8; 32], out: &mut [u8]) {
    key.iter_mut()
        .zip(hw::now().to_le_bytes())
        .for_each(|(k, t)| *k ^= t);
    let mut stream = ChaCha20Rng::from_seed(*key);
    stream.fill_bytes(key);
    stream.fill_bytes(out);
}

/// Random bytes.
pub fn fill(out: &mut [u8]) {
    step(&mut KEY.lock(), out);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_bytes_come_twice() {
        seed(b"sixteen bytes...");
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..1000 {
            let mut bytes = [0; 16];
            fill(&mut bytes);
            assert!(seen.insert(bytes));
        }
    }
}
