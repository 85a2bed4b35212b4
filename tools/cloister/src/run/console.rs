//! The running machine: carries bytes between terminal and QEMU and watches for the end.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use rustix::termios::{OptionalActions, OutputModes, Termios, tcgetattr, tcsetattr};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::RunArgs;
use super::qemu::Qemu;
use super::verdict::Watch;
use crate::error::{Error, Result, io_reason};
use crate::progress;

/// How long the machine may go on after it said that it cannot.
const AFTER_FATAL: Duration = Duration::from_secs(2);
/// Three of these in a row end QEMU from the terminal, whatever state it is in: Ctrl-\.
const KILL_BYTE: u8 = 0x1c;

enum Event {
    Output(Vec<u8>),
    OutputEnded,
    KillKey,
    Signal(i32),
}

/// Runs QEMU to its end.
pub(crate) fn run(qemu: &Qemu, line: &[OsString], args: &RunArgs, interactive: bool) -> Result<()> {
    let mut log = match &args.log {
        Some(path) => Some((path, File::create(path).map_err(|e| Error::file(path, &e))?)),
        None => None,
    };
    let mut child = Command::new(&qemu.path)
        .args(line)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|e| Error::file(&qemu.path, &e))?;
    let (events, receiver) = mpsc::channel();
    let (Some(stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
        return Err(Error::machine("QEMU has no console"));
    };
    signals(&events)?;
    let raw = RawTerminal::enter();
    if raw.is_some() {
        progress("Ctrl-] leaves a guest's console for the management shell, 'shutdown' there ends");
        progress("all of it; if nothing answers any more: Ctrl-\\ three times");
    }
    spawn_input(stdin, events.clone(), raw.is_some());
    spawn_output(stdout, events);

    let mut watch = Watch::default();
    let deadline = args
        .timeout
        .map(|s| Instant::now() + Duration::from_secs(s));
    let mut tee = |bytes: &[u8]| {
        // A reader of ours that went away must not keep us from watching the machine.
        let mut out = io::stdout().lock();
        let _ = out.write_all(bytes).and_then(|()| out.flush());
        if let Some((path, file)) = &mut log {
            file.write_all(bytes).map_err(|e| Error::file(path, &e))?;
        }
        Ok(())
    };
    let end = watch_machine(&receiver, &mut watch, deadline, &mut tee);
    let ended_by_itself = matches!(end, Ok(End::Console));
    let status = stop(&mut child, ended_by_itself);
    drop(raw);
    if watch.in_line() {
        // Our own last words start a line.
        let _ = writeln!(io::stdout());
    }
    watch.finish();
    conclude(end?, status, &watch, args, interactive)
}

/// How watching ended.
enum End {
    /// QEMU closed its console: it has ended or is about to.
    Console,
    Fatal,
    TimedOut,
    KillKey,
    Signal(i32),
}

fn watch_machine(
    receiver: &Receiver<Event>,
    watch: &mut Watch,
    mut deadline: Option<Instant>,
    tee: &mut dyn FnMut(&[u8]) -> Result<()>,
) -> Result<End> {
    let mut fatal = false;
    loop {
        let event = match deadline {
            Some(deadline) => {
                receiver.recv_timeout(deadline.saturating_duration_since(Instant::now()))
            }
            None => receiver.recv().map_err(|_| RecvTimeoutError::Disconnected),
        };
        match event {
            Ok(Event::Output(bytes)) => {
                tee(&bytes)?;
                watch.feed(&bytes);
                if !fatal && watch.is_dead() {
                    fatal = true;
                    let soon = Instant::now() + AFTER_FATAL;
                    deadline = Some(deadline.map_or(soon, |d| d.min(soon)));
                }
            }
            Ok(Event::OutputEnded) | Err(RecvTimeoutError::Disconnected) => {
                return Ok(End::Console);
            }
            Ok(Event::KillKey) => return Ok(End::KillKey),
            Ok(Event::Signal(number)) => return Ok(End::Signal(number)),
            Err(RecvTimeoutError::Timeout) if fatal => return Ok(End::Fatal),
            Err(RecvTimeoutError::Timeout) => return Ok(End::TimedOut),
        }
    }
}

fn conclude(
    end: End,
    status: io::Result<std::process::ExitStatus>,
    watch: &Watch,
    args: &RunArgs,
    interactive: bool,
) -> Result<()> {
    match end {
        End::Signal(number) => return Err(Error::signal(number)),
        End::KillKey => return Err(Error::machine("ended from the keyboard")),
        End::TimedOut => {
            show_last_lines(watch);
            let seconds = args.timeout.unwrap_or_default();
            return Err(Error::timed_out(format_args!(
                "timed out after {seconds} s"
            )));
        }
        End::Fatal => show_last_lines(watch),
        End::Console => {
            let status = status.map_err(|e| Error::machine(io_reason(&e)))?;
            if !status.success() {
                show_last_lines(watch);
                return Err(Error::machine(format_args!("QEMU failed: {status}")));
            }
        }
    }
    match watch.failure() {
        None => {
            progress("all VMs powered off cleanly");
            Ok(())
        }
        Some(reason) => {
            if !interactive && !watch.is_dead() {
                show_last_lines(watch);
            }
            Err(Error::machine(reason))
        }
    }
}

fn show_last_lines(watch: &Watch) {
    progress("the console's last lines:");
    for line in watch.last_lines() {
        progress(format_args!("| {line}"));
    }
}

/// Waits for QEMU if it ends by itself, else ends it.
fn stop(child: &mut Child, by_itself: bool) -> io::Result<std::process::ExitStatus> {
    if by_itself {
        // The console is closed; give the process a moment to follow.
        for _ in 0..50 {
            if let Some(status) = child.try_wait()? {
                return Ok(status);
            }
            thread::sleep(Duration::from_millis(20));
        }
    }
    child.kill()?;
    child.wait()
}

/// Hands signals that would end this program over as events, so that QEMU and the terminal are
/// seen to first.
fn signals(events: &Sender<Event>) -> Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP])
        .map_err(|e| Error::machine(format_args!("signals: {}", io_reason(&e))))?;
    let events = events.clone();
    thread::spawn(move || {
        for number in signals.forever() {
            if events.send(Event::Signal(number)).is_err() {
                return;
            }
        }
    });
    Ok(())
}

/// Our input → QEMU's. Both ends stay open when our input ends: the guests just get nothing more.
fn spawn_input(mut qemu: ChildStdin, events: Sender<Event>, terminal: bool) {
    thread::spawn(move || {
        let mut kill_keys = 0;
        let mut buffer = [0; 256];
        loop {
            let count = match io::stdin().lock().read(&mut buffer) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Ok(0) | Err(_) => break,
                Ok(count) => count,
            };
            let bytes = buffer.get(..count).unwrap_or_default();
            for &byte in bytes {
                kill_keys = if terminal && byte == KILL_BYTE {
                    kill_keys + 1
                } else {
                    0
                };
                if kill_keys == 3 && events.send(Event::KillKey).is_err() {
                    return;
                }
            }
            if qemu.write_all(bytes).and_then(|()| qemu.flush()).is_err() {
                return;
            }
        }
        loop {
            thread::park();
        }
    });
}

/// QEMU's output → events.
fn spawn_output(mut qemu: impl Read + Send + 'static, events: Sender<Event>) {
    thread::spawn(move || {
        let mut buffer = [0; 4096];
        loop {
            match qemu.read(&mut buffer) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Ok(0) | Err(_) => {
                    let _ = events.send(Event::OutputEnded);
                    return;
                }
                Ok(count) => {
                    let bytes = buffer.get(..count).unwrap_or_default().to_vec();
                    if events.send(Event::Output(bytes)).is_err() {
                        return;
                    }
                }
            }
        }
    });
}

/// The terminal in raw mode, so that every key reaches the guest; as it was when dropped.
struct RawTerminal(Termios);

impl RawTerminal {
    /// `None` if standard input is no terminal.
    fn enter() -> Option<Self> {
        let before = tcgetattr(io::stdin()).ok()?;
        let mut raw = before.clone();
        raw.make_raw();
        // Our own messages end in a bare line feed.
        raw.output_modes |= OutputModes::OPOST | OutputModes::ONLCR;
        tcsetattr(io::stdin(), OptionalActions::Now, &raw).ok()?;
        Some(Self(before))
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &self.0);
    }
}
