//! What CPU 0 does besides running vCPUs: console input, shell commands, management.
//!
//! Everything here but [`ask`], [`is_asked`], [`is_busy`] and [`has_work`] runs on CPU 0 only. Work is cut into pieces
//! of a few milliseconds at most, with guests running in between.

use crate::console::{self, Event};
use crate::hw::Mutex;
use crate::vm::manager::Manager;
use crate::{cpu, shell, uart};
use alloc::collections::VecDeque;
use alloc::string::String;
use core::sync::atomic::{AtomicBool, Ordering};

/// Somebody has something for CPU 0 to look at.
static ASKED: AtomicBool = AtomicBool::new(false);
/// Management has more to do.
static BUSY: AtomicBool = AtomicBool::new(false);
/// Most bytes kept that were typed while a command ran.
const TYPED_AHEAD: usize = 4096;

/// What was typed and not yet looked at, and the command that was typed before that.
struct Input {
    bytes: VecDeque<u8>,
    command: Option<String>,
}

static INPUT: Mutex<Input> = Mutex::new(Input {
    bytes: VecDeque::new(),
    command: None,
});
static MANAGER: Mutex<Option<Manager>> = Mutex::new(None);

/// Starts management.
pub fn init(manager: Manager) {
    *MANAGER.lock() = Some(manager);
    ask();
}

/// Makes CPU 0 have a look. From any CPU.
pub fn ask() {
    // Once is enough: the bit falls before CPU 0 looks, and while it is set CPU 0 neither sleeps nor enters a
    // guest.
    if !ASKED.swap(true, Ordering::SeqCst) {
        cpu::notify(0);
    }
}

/// True if somebody has asked since CPU 0 looked last. CPU 0 enters no guest then: the interrupt that told it
/// is gone, or there was none, because it asked itself.
#[inline]
pub fn is_asked() -> bool {
    ASKED.load(Ordering::SeqCst)
}

/// True while a VM is being started or taken apart.
pub fn is_busy() -> bool {
    BUSY.load(Ordering::Relaxed)
}

/// True if CPU 0 has something to do here.
pub fn has_work() -> bool {
    is_asked() || is_busy()
}

/// The UART's interrupt: hands what was typed to the console.
pub fn receive() {
    let mut input = INPUT.lock();
    uart::receive(|byte| {
        if input.bytes.len() < TYPED_AHEAD {
            input.bytes.push_back(byte);
        }
    });
    hand_over(&mut input);
}

/// Hands bytes to the console as far as the next command: what follows may be meant for a guest whose
/// console that command attaches.
fn hand_over(input: &mut Input) {
    while input.command.is_none()
        && let Some(byte) = input.bytes.pop_front()
    {
        match console::receive(byte) {
            Event::None => {}
            Event::Guest(vm) => give_input(vm),
            Event::Command(line) => {
                input.command = Some(line);
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
    let Some(manager) = guard.as_mut() else {
        return;
    };
    let command = INPUT.lock().command.clone();
    if let Some(line) = &command {
        shell::run(line, manager);
    }
    BUSY.store(manager.step(), Ordering::Relaxed);
    // Without the manager: what was typed may be for a guest.
    drop(guard);
    if command.is_some() {
        let mut input = INPUT.lock();
        input.command = None;
        hand_over(&mut input);
    }
}
