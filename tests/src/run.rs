//! A machine that runs: its console, its shell, its end.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::console::{Match, Missed};
use crate::process::Process;

/// Console lines shown when a run fails.
const SHOWN_LINES: usize = 60;
/// The management shell's prompt.
const PROMPT: &str = "cloister> ";
/// What leaves a guest's console: Ctrl-].
const DETACH: &[u8] = b"\x1d";
/// Lines after which nothing good can follow.
const FATAL: [&str; 2] = ["[core] panic", "[host] fatal"];

/// A started machine. Dropping it ends QEMU.
pub struct Run {
    process: Process,
    command: String,
    log: PathBuf,
    deadline: Instant,
    cursor: usize,
}

impl Run {
    /// Starts `command`, whose standard streams are the machine's console.
    pub(crate) fn start(command: Command, dir: &Path, timeout: Duration) -> Self {
        let line = std::iter::once(command.get_program())
            .chain(command.get_args())
            .map(|word| quote(&word.to_string_lossy()))
            .collect::<Vec<_>>()
            .join(" ");
        let log = dir.join("console.log");
        let process = Process::start(command, &log);
        Self {
            process,
            command: line,
            log,
            deadline: Instant::now() + timeout,
            cursor: 0,
        }
    }

    /// Waits for `pattern` and goes on behind it.
    #[track_caller]
    pub fn expect(&mut self, pattern: &str) -> Match {
        self.expect_any(&[pattern])
    }

    /// Waits for whichever of `patterns` comes first and goes on behind it.
    #[track_caller]
    pub fn expect_any(&mut self, patterns: &[&str]) -> Match {
        let all: Vec<&str> = patterns.iter().copied().chain(FATAL).collect();
        match self.process.output.wait(self.cursor, &all, self.deadline) {
            Ok(found) if found.which < patterns.len() => {
                self.cursor = found.end;
                found
            }
            Ok(_) => {
                let _ = self.process.output.wait(
                    usize::MAX,
                    &[],
                    Instant::now() + Duration::from_secs(1),
                );
                self.fail(&format!("the machine died while waiting for {patterns:?}"))
            }
            Err(Missed::Late) => self.fail(&format!("time-out while waiting for {patterns:?}")),
            Err(Missed::Closed) => {
                self.fail(&format!("the machine ended while waiting for {patterns:?}"))
            }
        }
    }

    /// Waits for a complete line that contains `pattern`; the line from the pattern on.
    #[track_caller]
    pub fn expect_line(&mut self, pattern: &str) -> String {
        self.expect(pattern);
        let rest = self.expect("\n").text;
        format!("{pattern}{}", rest.trim_end())
    }

    /// The rest of the line the console is in.
    #[track_caller]
    pub fn rest_of_line(&mut self) -> String {
        self.expect("\n").text.trim().to_owned()
    }

    /// Whether `pattern` has come since the last `expect`, without waiting for it and without moving.
    #[must_use]
    pub fn has(&self, pattern: &str) -> bool {
        self.process
            .output
            .wait(self.cursor, &[pattern], Instant::now())
            .is_ok()
    }

    /// Everything printed so far.
    #[must_use]
    pub fn text(&self) -> String {
        self.process.output.text()
    }

    /// Types `text`.
    pub fn send(&mut self, text: &str) {
        self.process.send(text.as_bytes());
    }

    /// Leaves the guest's console for the management shell.
    #[track_caller]
    pub fn detach(&mut self) {
        self.process.send(DETACH);
        self.expect(PROMPT);
    }

    /// Waits for the shell's first prompt.
    #[track_caller]
    pub fn expect_prompt(&mut self) {
        self.expect(PROMPT);
    }

    /// Runs a shell command that prints something; what it printed. The console must be in the shell.
    #[track_caller]
    pub fn shell(&mut self, command: &str) -> String {
        self.send(command);
        self.expect(command);
        self.send("\r");
        // A line of the host's log may come at any time, and prompt and typed text again behind it:
        // the command's output is what comes before a prompt and is not log.
        let mut output = String::new();
        while output.is_empty() {
            let shown = self.expect(PROMPT).text;
            let shown = shown.trim_end_matches(PROMPT);
            let own = shown
                .lines()
                .filter(|line| !line.starts_with("[host]") && line.trim() != command);
            output = own.collect::<Vec<_>>().join("\n").trim().to_owned();
        }
        output
    }

    /// Repeats a shell command until `accept` takes its output.
    #[track_caller]
    pub fn shell_until<T>(&mut self, command: &str, accept: impl Fn(&str) -> Option<T>) -> T {
        loop {
            let output = self.shell(command);
            if let Some(value) = accept(&output) {
                return value;
            }
            if Instant::now() > self.deadline {
                self.fail(&format!("time-out while repeating {command:?}"));
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// The line in which `mem` says how many frames are free. The console must be in the shell.
    #[track_caller]
    pub fn free_frames(&mut self) -> String {
        self.shell_until("mem", |mem| {
            mem.lines()
                .find(|line| line.starts_with("free frames"))
                .map(str::to_owned)
        })
    }

    /// Waits until the machine ends by itself; its exit status.
    #[track_caller]
    pub fn wait(&mut self) -> i32 {
        let Some(status) = self.process.wait(self.deadline) else {
            self.fail("time-out while waiting for the machine's end")
        };
        // The readers come to the end of what the pipes still hold.
        let soon = Instant::now() + Duration::from_secs(5);
        let _ = self.process.output.wait(usize::MAX, &["never"], soon);
        status.code().unwrap_or(-1)
    }

    /// Waits for the machine's end and requires the status that says all went well.
    #[track_caller]
    pub fn wait_success(&mut self) {
        let status = self.wait();
        if status != 0 {
            self.fail(&format!("exit status {status}"));
        }
    }

    /// `shutdown` in the shell, which ends the machine well.
    #[track_caller]
    pub fn shutdown(&mut self) {
        self.send("shutdown\r");
        self.wait_success();
    }

    /// Requires `condition`.
    #[track_caller]
    pub fn check(&self, condition: bool, what: &str) {
        if !condition {
            self.fail(what);
        }
    }

    /// Fails the test, showing the run.
    #[track_caller]
    pub fn fail(&self, why: &str) -> ! {
        panic!(
            "{why}\n--- command: {}\n--- whole console: {}\n--- last {SHOWN_LINES} lines:\n{}\n--- standard error:\n{}\n---",
            self.command,
            self.log.display(),
            self.process.output.tail(SHOWN_LINES),
            self.process.errors.tail(SHOWN_LINES),
        );
    }

    /// What the tool printed on standard error.
    #[must_use]
    pub fn errors(&self) -> String {
        self.process.errors.text()
    }
}

fn quote(word: &str) -> String {
    if word
        .chars()
        .all(|c| c.is_ascii_alphanumeric() || "-_./=,:+".contains(c))
        && !word.is_empty()
    {
        word.to_owned()
    } else {
        format!("'{word}'")
    }
}
