//! What CPU 0 does besides running vCPUs: console input, shell commands, management.
//!
//! Everything here but [`ask`], [`is_busy`] and [`has_work`] runs on CPU 0 only. Work is cut into pieces
//! of a few milliseconds at most, with guests running in between.

use crate::console::{self, Event};
use crate::vm::manager::Manager;
use crate::{cpu, shell, uart};
use alloc::collections::VecDeque;
use alloc::string::String;
use core::sync::atomic::{AtomicBool, Ordering};
use spin::Mutex;

/// Somebody has something for CPU 0 to look at.
static ASKED: AtomicBool = AtomicBool::new(false);
/// Management has more to do.
static BUSY: AtomicBool = AtomicBool::new(false);
static COMMANDS: Mutex<VecDeque<String>> = Mutex::new(VecDeque::new());
static MANAGER: Mutex<Option<Manager>> = Mutex::new(None);

/// Starts management.
pub fn init(manager: Manager) {
    *MANAGER.lock() = Some(manager);
    ask();
}

/// Makes CPU 0 have a look. From any CPU.
pub fn ask() {
    // Once is enough: the bit falls before CPU 0 looks.
    if !ASKED.swap(true, Ordering::SeqCst) {
        cpu::notify(0);
    }
}

/// True while a VM is being started or taken apart.
pub fn is_busy() -> bool {
    BUSY.load(Ordering::Relaxed)
}

/// True if CPU 0 has something to do here.
pub fn has_work() -> bool {
    ASKED.load(Ordering::Relaxed) || is_busy()
}

/// The UART's interrupt: hands what was typed to the console.
pub fn receive() {
    while let Some(byte) = uart::receive() {
        match console::receive(byte) {
            Event::None => {}
            Event::Guest(vm) => give_input(vm),
            Event::Command(line) => {
                COMMANDS.lock().push_back(line);
                ask();
            }
        }
    }
}

fn give_input(vm: usize) {
    let live = MANAGER.lock().as_ref().and_then(|manager| manager.live(vm));
    // What a VM that does not run is given to read, or leaves unread beyond its backlog, is lost.
    while let Some(byte) = console::take_input(vm) {
        if let Some(vm) = &live {
            let _ = vm.input(byte);
        }
    }
}

/// One piece of what there is to do.
pub fn turn() {
    if !has_work() {
        return;
    }
    ASKED.store(false, Ordering::SeqCst);
    let mut guard = MANAGER.lock();
    let Some(manager) = guard.as_mut() else { return };
    let command = COMMANDS.lock().pop_front();
    if let Some(line) = command {
        shell::run(&line, manager);
        if !COMMANDS.lock().is_empty() {
            ask();
        }
    }
    BUSY.store(manager.step(), Ordering::Relaxed);
}
