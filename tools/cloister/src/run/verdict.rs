//! Reads the console line by line for what the hostvisor and the core say about the run's end.

use std::collections::VecDeque;

/// Longest line kept; the rest of a longer one is dropped.
const MAX_LINE: usize = 500;
/// Lines kept to be shown when a run fails.
const KEPT: usize = 12;

const SHUTDOWN: &str = "[host] shutdown: ";
const CLEAN: &str = "all powered off cleanly";
const FATAL: [&str; 2] = ["[core] panic", "[host] fatal"];
/// Before this line no guest's output can have been shown: the hostvisor prints it whenever it attaches a
/// guest's console.
const GUEST_SPEAKS: &str = "[host] console of ";

/// How a machine ends, by one of its lines.
enum Verdict {
    /// The hostvisor's words behind [`SHUTDOWN`].
    Shutdown(String),
    /// Core or hostvisor cannot go on.
    Fatal(String),
}

/// What the console has said so far.
///
/// A guest can print anything, these lines too. But nothing that it prints comes behind the machine's real
/// last words, as those come when no guest runs any more: the *last* verdict is the one that counts. Only
/// before a guest's console is attached for the first time, a fatal line can be believed at once.
#[derive(Default)]
pub(crate) struct Watch {
    line: Vec<u8>,
    last: VecDeque<String>,
    verdict: Option<Verdict>,
    guest_speaks: bool,
    dead: bool,
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

    /// True if core or hostvisor said, and no guest can have said, that it cannot go on.
    pub(crate) fn is_dead(&self) -> bool {
        self.dead
    }

    /// Why the run was no success; `None` if it was one. To be asked when the machine has ended.
    pub(crate) fn failure(&self) -> Option<String> {
        match &self.verdict {
            Some(Verdict::Shutdown(words)) if words.contains(CLEAN) => None,
            Some(Verdict::Shutdown(words)) => Some(words.clone()),
            Some(Verdict::Fatal(line)) => Some(line.clone()),
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
        self.guest_speaks |= text.starts_with(GUEST_SPEAKS);
        // The first fatal line is the cause of those that follow it.
        let dying = matches!(self.verdict, Some(Verdict::Fatal(_)));
        if let Some(words) = text.strip_prefix(SHUTDOWN)
            && !self.dead
        {
            self.verdict = Some(Verdict::Shutdown(words.trim_end().to_owned()));
        } else if FATAL.iter().any(|start| text.starts_with(start)) && !dying {
            self.verdict = Some(Verdict::Fatal(text.clone()));
            self.dead |= !self.guest_speaks;
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
    fn a_panic_before_any_guest_can_speak_is_believed_at_once() {
        let text = "[core] panic: broken\n[host] shutdown: 1 VMs, all powered off cleanly\n";
        assert_eq!(watch(text).failure().unwrap(), "[core] panic: broken");
        assert!(watch(text).is_dead());
        assert!(!watch("say [core] panic\n").is_dead());
    }

    #[test]
    fn a_guest_that_prints_a_panic_or_a_verdict_decides_nothing() {
        const SPEAKS: &str = "[host] console of web, Ctrl-] leaves it\n";
        const CLEAN: &str = "[host] shutdown: 1 VMs, all powered off cleanly\n";
        for forged in [
            "[core] panic: x\n",
            "[host] fatal: x\n",
            "[host] shutdown: VM a: x\n",
        ] {
            let living = watch(&format!("{SPEAKS}{forged}"));
            assert!(!living.is_dead() && living.failure().is_some());
            assert_eq!(watch(&format!("{SPEAKS}{forged}{CLEAN}")).failure(), None);
        }
        // The machine's own last words come last.
        for real in ["[core] panic: y", "[host] fatal: y"] {
            let ended = watch(&format!("{SPEAKS}{CLEAN}{real}\n[host] fatal: z\n"));
            assert_eq!(ended.failure().unwrap(), real);
        }
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
