//! Reads the console line by line for what the hostvisor and the core say about the run's end.

use std::collections::VecDeque;

/// Longest line kept; the rest of a longer one is dropped.
const MAX_LINE: usize = 500;
/// Lines kept to be shown when a run fails.
const KEPT: usize = 12;

const SHUTDOWN: &str = "[host] shutdown: ";
const CLEAN: &str = "all powered off cleanly";
const FATAL: [&str; 2] = ["[core] panic", "[host] fatal"];

/// What the console has said so far.
#[derive(Default)]
pub(crate) struct Watch {
    line: Vec<u8>,
    last: VecDeque<String>,
    shutdown: Option<String>,
    fatal: Option<String>,
}

impl Watch {
    /// Takes the next bytes of console output.
    pub(crate) fn feed(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            match byte {
                b'\n' => self.end_line(),
                b'\r' => {}
                _ if self.line.len() < MAX_LINE => self.line.push(byte),
                _ => {}
            }
        }
    }

    /// True if the console stopped in the middle of a line.
    pub(crate) fn in_line(&self) -> bool {
        !self.line.is_empty()
    }

    /// The console has ended.
    pub(crate) fn finish(&mut self) {
        if !self.line.is_empty() {
            self.end_line();
        }
    }

    /// The first line that says core or hostvisor cannot go on.
    pub(crate) fn fatal(&self) -> Option<&str> {
        self.fatal.as_deref()
    }

    /// Why the run was no success; `None` if it was one. To be asked when the machine has ended: the
    /// *last* verdict counts, since a guest can print such a line, but not after its own end.
    pub(crate) fn failure(&self) -> Option<String> {
        if let Some(fatal) = &self.fatal {
            return Some(fatal.clone());
        }
        match &self.shutdown {
            Some(verdict) if verdict.contains(CLEAN) => None,
            Some(verdict) => Some(verdict.clone()),
            None => Some("the machine ended without a verdict".to_owned()),
        }
    }

    /// The last lines, oldest first.
    pub(crate) fn last_lines(&self) -> impl Iterator<Item = &str> {
        self.last.iter().map(String::as_str)
    }

    fn end_line(&mut self) {
        let text = String::from_utf8_lossy(&self.line).into_owned();
        self.line.clear();
        if let Some(verdict) = text.strip_prefix(SHUTDOWN) {
            self.shutdown = Some(verdict.trim_end().to_owned());
        }
        if self.fatal.is_none() && FATAL.iter().any(|start| text.starts_with(start)) {
            self.fatal = Some(text.clone());
        }
        if !text.trim().is_empty() {
            if self.last.len() == KEPT {
                self.last.pop_front();
            }
            self.last.push_back(text);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Watch;

    fn watch(text: &str) -> Watch {
        let mut watch = Watch::default();
        // Any cut of the stream gives the same result.
        for byte in text.bytes() {
            watch.feed(&[byte]);
        }
        watch.finish();
        watch
    }

    #[test]
    fn a_clean_shutdown_is_a_success() {
        assert_eq!(
            watch("x\r\n[host] shutdown: 2 VMs, all powered off cleanly\r\n").failure(),
            None
        );
        assert_eq!(
            watch("[host] shutdown: 1 VMs, all powered off cleanly").failure(),
            None
        );
    }

    #[test]
    fn a_reason_is_handed_on() {
        let failure = watch("[host] shutdown: VM web: stopped by the operator\n").failure();
        assert_eq!(failure.unwrap(), "VM web: stopped by the operator");
    }

    #[test]
    fn silence_is_a_failure() {
        assert!(watch("").failure().unwrap().contains("without a verdict"));
    }

    #[test]
    fn the_last_verdict_counts() {
        let text = "[host] shutdown: 1 VMs, all powered off cleanly\n[host] shutdown: VM a: died\n";
        assert_eq!(watch(text).failure().unwrap(), "VM a: died");
    }

    #[test]
    fn a_panic_outweighs_a_verdict() {
        let text = "[core] panic: broken\n[host] shutdown: 1 VMs, all powered off cleanly\n";
        assert_eq!(watch(text).failure().unwrap(), "[core] panic: broken");
        assert!(watch("say [core] panic\n").fatal().is_none());
    }

    #[test]
    fn endless_lines_are_bounded() {
        let mut watch = Watch::default();
        for _ in 0..10_000 {
            watch.feed(&[b'x'; 1000]);
        }
        watch.finish();
        assert_eq!(watch.last_lines().map(str::len).collect::<Vec<_>>(), [500]);
    }
}
