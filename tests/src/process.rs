//! A child process in a group of its own, whose output is read by threads and which dies with us.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::console::Transcript;

/// A running program with its console.
pub struct Process {
    child: Child,
    stdin: Option<ChildStdin>,
    /// What it printed on standard output.
    pub output: Arc<Transcript>,
    /// What it printed on standard error.
    pub errors: Arc<Transcript>,
}

impl Process {
    /// Starts `command`; its standard output also goes to the file `log`.
    ///
    /// # Panics
    /// If the program cannot be started.
    pub fn start(mut command: Command, log: &Path) -> Self {
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0);
        let mut child = command
            .spawn()
            .unwrap_or_else(|e| panic!("cannot start {}: {e}", command.get_program().display()));
        let output = Arc::new(Transcript::new());
        let errors = Arc::new(Transcript::new());
        let log = File::create(log).ok();
        copy_to(child.stdout.take(), Arc::clone(&output), log);
        copy_to(child.stderr.take(), Arc::clone(&errors), None);
        Self {
            stdin: child.stdin.take(),
            child,
            output,
            errors,
        }
    }

    /// Sends bytes to standard input; a program that has gone is found out by who waits for an answer.
    pub fn send(&mut self, bytes: &[u8]) {
        if let Some(stdin) = &mut self.stdin {
            let _ = stdin.write_all(bytes).and_then(|()| stdin.flush());
        }
    }

    /// Waits until it ends, at most until `deadline`.
    pub fn wait(&mut self, deadline: Instant) -> Option<ExitStatus> {
        loop {
            if let Ok(Some(status)) = self.child.try_wait() {
                return Some(status);
            }
            if Instant::now() >= deadline {
                return None;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn signal_group(&self, signal: &str) {
        let group = format!("-{}", self.child.id());
        let _ = Command::new("kill")
            .args([signal, "--", &group])
            .stderr(Stdio::null())
            .status();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if !matches!(self.child.try_wait(), Ok(Some(_))) {
            self.signal_group("-TERM");
            self.wait(Instant::now() + Duration::from_secs(2));
        }
        // Also when it has ended: a child of its own may be left.
        self.signal_group("-KILL");
        let _ = self.child.wait();
    }
}

fn copy_to<R: Read + Send + 'static>(
    source: Option<R>,
    transcript: Arc<Transcript>,
    mut log: Option<File>,
) {
    let Some(mut source) = source else {
        return transcript.close();
    };
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(n @ 1..) = source.read(&mut buffer) {
            if let Some(log) = &mut log {
                let _ = log.write_all(&buffer[..n]);
            }
            transcript.append(&buffer[..n]);
        }
        transcript.close();
    });
}
