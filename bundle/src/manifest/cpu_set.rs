//! Sets of CPUs as text.

use super::decimal;
use alloc::borrow::ToOwned;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

/// `all`, or `0,2,5` for bits 0, 2 and 5; the outer `Option` is for text that is neither.
pub(super) fn parse(text: &str) -> Option<Option<u64>> {
    if text == "all" {
        return Some(None);
    }
    let mut set = 0_u64;
    for field in text.split(',') {
        let bit = decimal(field).and_then(|cpu| 1_u64.checked_shl(u32::try_from(cpu).ok()?))?;
        // Ascending: the new bit lies above all others.
        if bit <= set {
            return None;
        }
        set |= bit;
    }
    Some(Some(set))
}

/// A VM's CPUs as written: `all`, or `0,2` for bits 0 and 2.
#[must_use]
pub fn cpu_set_text(set: Option<u64>) -> String {
    let Some(set) = set else {
        return "all".to_owned();
    };
    let has = |cpu: &u32| set.checked_shr(*cpu).is_some_and(|rest| rest & 1 == 1);
    let cpus: Vec<_> = (0..u64::BITS)
        .filter(has)
        .map(|cpu| cpu.to_string())
        .collect();
    cpus.join(",")
}
