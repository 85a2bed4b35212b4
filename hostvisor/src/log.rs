//! The host's own log: bounded, with time stamps, fed by the `log` crate from any CPU.
//!
//! The backend only stores lines; the console shows them (`console::show_log`). So logging never
//! waits for a slow UART behind somebody else's lock, and may be done with any lock but this file's
//! held. Control characters are replaced: no name out of a bundle can forge a line.

use crate::hw::Mutex;
use crate::ring::Ring;
use alloc::string::String;
use core::fmt::{self, Write as _};
use core::sync::atomic::{AtomicU64, Ordering};
use log::{Level, LevelFilter, Metadata, Record};
use spin::Once;

/// Target of lines that are shown even while a guest's console is attached: what became of a VM or
/// of a device of one, how the machine ended.
pub const VERDICT: &str = "verdict";
/// Bytes kept.
pub const CAPACITY: usize = 32 << 10;
/// Longest line stored, in bytes, time stamp included; longer ones end in "...".
pub const MAX_LINE: usize = 400;

/// The log of the machine.
static LOG: HostLog = HostLog::new();

/// The machine's log.
#[must_use]
pub fn host() -> &'static HostLog {
    &LOG
}

/// Makes this the backend of the `log` crate. `clock` gives microseconds since boot.
///
/// The memory for the log comes from the heap with the first line.
pub fn init(clock: fn() -> u64) {
    LOG.clock.call_once(|| clock);
    // An error says that it was done already.
    let _ = log::set_logger(&LOG);
    log::set_max_level(LevelFilter::Info);
}

/// Bounded store of log lines.
pub struct HostLog {
    lines: Mutex<Lines>,
    end: AtomicU64,
    clock: Once<fn() -> u64>,
}

impl HostLog {
    /// An empty log without a clock: times are 0.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            lines: Mutex::new(Lines(Ring::new(CAPACITY))),
            end: AtomicU64::new(0),
            clock: Once::new(),
        }
    }

    /// Stores a line.
    pub fn push(&self, kind: Kind, text: fmt::Arguments<'_>) {
        let micros = self.clock.get().map_or(0, |clock| clock());
        let line = Line::new(kind, micros, text);
        let mut lines = self.lines.lock();
        lines.push(&line);
        self.end.store(lines.0.end(), Ordering::Release);
    }

    /// Position behind the newest line.
    pub fn end(&self) -> u64 {
        self.end.load(Ordering::Acquire)
    }

    /// The first line at or behind position `cursor`, which moves behind it.
    pub fn next(&self, cursor: &mut u64) -> Option<Line> {
        self.lines.lock().next(cursor)
    }
}

impl Default for HostLog {
    fn default() -> Self {
        Self::new()
    }
}

impl log::Log for HostLog {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            let kind = match record.level() {
                _ if record.target() == VERDICT => Kind::Verdict,
                Level::Error => Kind::Error,
                Level::Warn => Kind::Warning,
                Level::Info => Kind::Info,
                Level::Debug | Level::Trace => Kind::Debug,
            };
            self.push(kind, *record.args());
            crate::console::log_grew();
        }
    }

    fn flush(&self) {
        crate::console::flush();
    }
}

/// How much a line matters.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// [`VERDICT`].
    Verdict,
    /// Something failed.
    Error,
    /// Something is not as it should be.
    Warning,
    /// Something happened.
    Info,
    /// For the log only, never shown as it happens.
    Debug,
}

impl Kind {
    const ALL: [Self; 5] = [
        Self::Verdict,
        Self::Error,
        Self::Warning,
        Self::Info,
        Self::Debug,
    ];

    /// The byte a stored line starts with.
    const fn tag(self) -> u8 {
        match self {
            Self::Verdict => b'V',
            Self::Error => b'E',
            Self::Warning => b'W',
            Self::Info => b'I',
            Self::Debug => b'D',
        }
    }

    fn of_tag(tag: u8) -> Self {
        Self::ALL
            .into_iter()
            .find(|kind| kind.tag() == tag)
            .unwrap_or(Self::Debug)
    }

    /// As the command `log` shows it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Verdict | Self::Info => "info",
            Self::Error => "error",
            Self::Warning => "warn",
            Self::Debug => "debug",
        }
    }
}

/// One line, with its time stamp, on its way in or out.
#[derive(Clone)]
pub struct Line {
    kind: Kind,
    bytes: [u8; MAX_LINE],
    len: usize,
    cut: bool,
}

impl Line {
    const END: &'static [u8] = b"...";

    /// Formats a line.
    #[must_use]
    pub fn new(kind: Kind, micros: u64, text: fmt::Arguments<'_>) -> Self {
        let mut line = Self {
            kind,
            bytes: [0; MAX_LINE],
            len: 0,
            cut: false,
        };
        // A `Display` that fails leaves what it wrote until then.
        let _ = write!(
            line,
            "[{:5}.{:06}] ",
            micros / 1_000_000,
            micros % 1_000_000
        );
        let _ = line.write_fmt(text);
        if line.cut {
            line.append(Self::END);
        }
        line
    }

    /// How much it matters.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        self.kind
    }

    /// The time stamp, in brackets, and the text.
    #[must_use]
    pub fn parts(&self) -> (&str, &str) {
        let line = self.bytes.get(..self.len).unwrap_or_default();
        str::from_utf8(line)
            .unwrap_or_default()
            .split_once("] ")
            .unwrap_or_default()
    }

    fn append(&mut self, bytes: &[u8]) -> bool {
        let end = self.len.saturating_add(bytes.len());
        match self.bytes.get_mut(self.len..end) {
            Some(place) => {
                place.copy_from_slice(bytes);
                self.len = end;
                true
            }
            None => false,
        }
    }
}

impl fmt::Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for c in text.chars() {
            let c = if c.is_control() { ' ' } else { c };
            let mut utf8 = [0; 4];
            let utf8 = c.encode_utf8(&mut utf8).as_bytes();
            let room = MAX_LINE
                .saturating_sub(self.len)
                .saturating_sub(Self::END.len());
            self.cut |= utf8.len() > room;
            if self.cut || !self.append(utf8) {
                break;
            }
        }
        Ok(())
    }
}

/// Lines in a ring: tag, time stamp and text, line feed.
#[derive(Debug)]
struct Lines(Ring);

impl Lines {
    fn push(&mut self, line: &Line) {
        let bytes = line.bytes.get(..line.len).unwrap_or_default();
        let needed = bytes.len().saturating_add(2);
        while !self.0.is_empty() && self.0.capacity().saturating_sub(self.0.len()) < needed {
            self.0.drop_through(b'\n');
        }
        self.0.push(&[line.kind.tag()]);
        self.0.push(bytes);
        self.0.push(b"\n");
    }

    fn next(&self, cursor: &mut u64) -> Option<Line> {
        let start = (*cursor).max(self.0.start());
        let mut stored = self.0.from(start);
        let kind = Kind::of_tag(stored.next()?);
        let mut line = Line {
            kind,
            bytes: [0; MAX_LINE],
            len: 0,
            cut: false,
        };
        stored.take_while(|&b| b != b'\n').for_each(|b| {
            line.append(&[b]);
        });
        // Tag and line feed are no part of the line.
        *cursor = start.saturating_add(line.len as u64).saturating_add(2);
        Some(line)
    }
}

/// The whole log as the command `log` prints it: `[    1.234567] info  text`.
pub fn for_each_line(log: &HostLog, mut show: impl FnMut(&str)) {
    let mut cursor = 0;
    let end = log.end();
    let mut text = String::new();
    while let Some(line) = log.next(&mut cursor) {
        let (time, message) = line.parts();
        text.clear();
        let _ = write!(text, "{time}] {:5} {message}", line.kind().name());
        show(&text);
        // Lines that come while these are shown are for the next time: this ends.
        if cursor >= end {
            break;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;
    use proptest::prelude::*;

    fn shown(log: &HostLog) -> Vec<String> {
        let mut lines = Vec::new();
        for_each_line(log, |line| lines.push(line.into()));
        lines
    }

    #[test]
    fn lines_have_time_level_and_text() {
        let log = HostLog::new();
        assert_eq!(shown(&log), [""; 0]);
        log.clock.call_once(|| || 1_234_567);
        log.push(Kind::Info, format_args!("CPU {} is up", 3));
        log.push(Kind::Warning, format_args!("odd"));
        log.push(Kind::Verdict, format_args!("vm web: powered off"));
        assert_eq!(
            shown(&log),
            [
                "[    1.234567] info  CPU 3 is up",
                "[    1.234567] warn  odd",
                "[    1.234567] info  vm web: powered off",
            ]
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]
        #[test]
        fn the_newest_lines_are_kept_whole_and_in_order(lines in prop::collection::vec("\\PC{0,300}", 1..300)) {
            let log = HostLog::new();
            for line in &lines {
                log.push(Kind::Info, format_args!("{line}"));
            }
            let shown = shown(&log);
            prop_assert!(!shown.is_empty() && shown.len() <= lines.len());
            for (shown, line) in shown.iter().rev().zip(lines.iter().rev()) {
                let text = shown.strip_prefix("[    0.000000] info  ").unwrap();
                match text.strip_suffix("...") {
                    Some(start) if text != line => prop_assert!(line.starts_with(start)),
                    _ => prop_assert_eq!(text, line),
                }
            }
            let ring = &log.lines.lock().0;
            prop_assert!(ring.len() <= CAPACITY);
            // Nothing is dropped before it must be.
            prop_assert!(shown.len() == lines.len() || ring.len() + MAX_LINE + 2 > CAPACITY);
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_a_second_line_or_reaches_the_terminal_raw(text in any::<String>()) {
            let log = HostLog::new();
            log.push(Kind::Info, format_args!("{text}"));
            let shown = shown(&log);
            prop_assert_eq!(shown.len(), 1);
            prop_assert!(!shown[0].chars().any(char::is_control));
        }

        #[test]
        fn a_cursor_sees_every_line_once(batches in prop::collection::vec(0_usize..5, 1..20)) {
            let log = HostLog::new();
            let (mut cursor, mut written, mut seen) = (0, 0, 0);
            for batch in batches {
                for _ in 0..batch {
                    log.push(Kind::Info, format_args!("{written}"));
                    written += 1;
                }
                while let Some(line) = log.next(&mut cursor) {
                    prop_assert_eq!(line.parts().1, seen.to_string());
                    seen += 1;
                }
                prop_assert_eq!((seen, cursor), (written, log.end()));
            }
        }
    }
}
