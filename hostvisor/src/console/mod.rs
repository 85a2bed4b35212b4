//! The machine's console: one UART shared by the guests' consoles and the management shell.
//!
//! [`mux`] is the multiplexer itself, plain data tested on the host. Here is the one the machine has,
//! behind its lock; any CPU may call. Lock order: this console's lock before the UART's and the log's.
//! Nothing is called under it but those, so whoever logs or writes as a guest never waits for
//! management. Shell commands run without it.

pub mod mux;

use crate::hw::Mutex;
use crate::log;
use alloc::string::String;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering, fence};
pub use mux::{Console, Event, First};

/// Where text goes. Never fails: what cannot be shown is lost.
pub trait Output {
    /// Writes `bytes` as they are.
    fn write(&mut self, bytes: &[u8]);
}

/// A UART by its transmit function.
struct Uart(fn(&[u8]));

impl Output for Uart {
    fn write(&mut self, bytes: &[u8]) {
        (self.0)(bytes);
    }
}

struct System {
    console: Console,
    uart: Option<Uart>,
}

static SYSTEM: Mutex<System> = Mutex::new(System {
    console: Console::new(),
    uart: None,
});
/// Position in the host log up to which lines were shown.
static SHOWN: AtomicU64 = AtomicU64::new(0);

/// Runs `f` on the console; shows what was logged in between.
fn with<R>(f: impl FnOnce(&mut Console, &mut dyn Output) -> R) -> Option<R> {
    let answer = SYSTEM.lock().turn(f);
    log_grew();
    answer
}

impl System {
    fn turn<R>(&mut self, f: impl FnOnce(&mut Console, &mut dyn Output) -> R) -> Option<R> {
        let uart = self.uart.as_mut()?;
        let answer = f(&mut self.console, uart);
        if log::host().end() != SHOWN.load(Ordering::Relaxed) {
            SHOWN.store(self.console.show_log(log::host(), uart), Ordering::Relaxed);
        }
        Some(answer)
    }
}

/// Shows new lines of the host log, unless the console is busy: then whoever holds it does.
pub fn log_grew() {
    loop {
        // Pairs the holder's unlock and look at the log's end with a writer's store of the end and
        // look at the lock: one of the two sees the other.
        fence(Ordering::SeqCst);
        if log::host().end() == SHOWN.load(Ordering::Relaxed) {
            return;
        }
        let Some(mut system) = SYSTEM.try_lock() else {
            return;
        };
        if system.turn(|_, _| ()).is_none() {
            return;
        }
    }
}

/// Waits for the console and shows all of the host log: before the machine is switched off.
pub fn flush() {
    with(|_, _| ());
}

/// Gives the console its UART. From now on log lines are shown, those logged before as well.
pub fn init(uart: fn(&[u8])) {
    SYSTEM.lock().uart = Some(Uart(uart));
    log_grew();
}

/// Names the VMs, in bundle order; says whom to attach at start.
pub fn define(names: Vec<String>, first: First) {
    with(|console, _| console.define(names, first));
}

/// The end of boot: the shell's prompt, unless a guest's console is attached or is about to be.
pub fn start_shell() {
    with(|console, out| console.start_shell(out));
}

/// VM `vm` starts anew: nothing typed before reaches it. The first one may be attached.
pub fn vm_started(vm: usize) {
    with(|console, out| console.vm_started(vm, out));
}

/// VM `vm` ended for good: leaves its console if that is attached.
pub fn vm_ended(vm: usize) {
    with(|console, out| console.vm_ended(vm, out));
}

/// Every VM that was to start has started or failed: if none was attached, the shell's prompt.
pub fn settled() {
    with(|console, out| console.settled(out));
}

/// VM `vm` wrote `bytes` to its UART.
pub fn guest_output(vm: usize, bytes: &[u8]) {
    with(|console, out| console.guest_output(vm, bytes, out));
}

/// The machine's UART received `byte`.
pub fn receive(byte: u8) -> Event {
    with(|console, out| console.input(byte, out)).unwrap_or(Event::None)
}

/// The next byte typed for VM `vm`.
pub fn take_input(vm: usize) -> Option<u8> {
    with(|console, _| console.take_input(vm)).flatten()
}

/// The shell's command is done: prompt again.
pub(crate) fn command_done() {
    with(|console, out| console.command_done(out));
}

/// What a running shell command writes to.
pub(crate) struct CommandOutput;

impl Output for CommandOutput {
    fn write(&mut self, bytes: &[u8]) {
        with(|console, out| console.command_output(bytes, out));
    }
}

impl crate::shell::Terminal for CommandOutput {
    fn attach(&mut self, vm: usize) {
        with(|console, out| console.attach(vm, out));
    }

    fn log(&self) -> &log::HostLog {
        log::host()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    static SENT: Mutex<Vec<u8>> = Mutex::new(Vec::new());

    #[test]
    fn lines_logged_on_many_cpus_are_all_shown_once_and_whole() {
        const THREADS: usize = 4;
        const LINES: usize = 200;
        init(|bytes| SENT.lock().extend_from_slice(bytes));
        log::init(|| 0);
        define(vec!["web".into()], First::Shell);
        thread::scope(|scope| {
            for t in 0..THREADS {
                scope.spawn(move || {
                    for i in 0..LINES {
                        ::log::info!("line {t} {i}.");
                        guest_output(0, b"unseen");
                        assert_eq!(take_input(0), None);
                    }
                });
            }
        });
        flush();
        let sent = String::from_utf8(SENT.lock().clone()).unwrap();
        for t in 0..THREADS {
            for i in 0..LINES {
                let line = format!("[host] line {t} {i}.");
                assert_eq!(sent.lines().filter(|l| *l == line).count(), 1, "{line}");
            }
        }
        assert!(!sent.contains("unseen"));
    }
}
