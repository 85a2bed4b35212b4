//! Looks once a second whether disks that have requests still answer.
//!
//! A soft timer on whichever CPU handed over the first request; while nothing is under way there is none, and an
//! idle machine sleeps.

use crate::interrupts::Handler;
use crate::vm::Alarm;
use crate::{cpu, hw, storage};
use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, Ordering};

/// Key of the soft timer; VMs' keys are far below.
const KEY: u64 = u64::MAX;

/// A timer is armed somewhere.
static WATCHING: AtomicBool = AtomicBool::new(false);

struct Watch;

/// A request is under way.
#[inline]
pub fn start() {
    if !WATCHING.load(Ordering::Relaxed) && !WATCHING.swap(true, Ordering::SeqCst) {
        arm();
    }
}

fn arm() {
    let deadline = hw::now().saturating_add(hw::frequency());
    cpu::get(hw::cpu_index()).arm(KEY, deadline, Alarm::Call(Arc::new(Watch)));
}

impl Handler for Watch {
    fn handle(&self) {
        // First: a request that is handed over while this looks arms a timer of its own.
        WATCHING.store(false, Ordering::SeqCst);
        let now = hw::now();
        let busy = storage::disks().iter().filter(|disk| disk.watch(now));
        if busy.count() != 0 {
            start();
        }
    }
}
