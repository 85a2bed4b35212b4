//! Who has which part of which disk: a sector that one VM writes is nobody else's.

use super::Volume;
use crate::hw::Mutex;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering};

/// A VM's hold on a volume, until it is dropped.
#[derive(Debug)]
pub struct Claim(u64);

struct Held {
    number: u64,
    volume: Volume,
    shared: bool,
    owner: String,
}

static HELD: Mutex<Vec<Held>> = Mutex::new(Vec::new());
static NUMBERS: AtomicU64 = AtomicU64::new(0);

/// Somebody has some of the volume, and one of the two does not share.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ClaimError {
    /// Who has it.
    pub owner: String,
}

impl fmt::Display for ClaimError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VM {} has it, and not both share it", self.owner)
    }
}

/// Takes `volume` for `owner`. `shared`: others that say so may have it, too; none of them writes.
pub fn claim(volume: &Volume, shared: bool, owner: &str) -> Result<Claim, ClaimError> {
    let mut held = HELD.lock();
    let in_the_way = |other: &&Held| other.volume.overlaps(volume) && !(shared && other.shared);
    if let Some(other) = held.iter().find(in_the_way) {
        return Err(ClaimError {
            owner: other.owner.clone(),
        });
    }
    let number = NUMBERS.fetch_add(1, Ordering::Relaxed);
    held.push(Held {
        number,
        volume: volume.clone(),
        shared,
        owner: owner.into(),
    });
    Ok(Claim(number))
}

impl Drop for Claim {
    fn drop(&mut self) {
        HELD.lock().retain(|held| held.number != self.0);
    }
}
