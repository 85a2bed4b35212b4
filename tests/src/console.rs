//! What a console has printed so far, with the time at which it came, and waiting for more.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// Text that grows at its end. Carriage returns and terminal control sequences are left out.
pub struct Transcript {
    state: Mutex<State>,
    grown: Condvar,
}

#[derive(Default)]
struct State {
    text: String,
    /// Offset in `text` and time of arrival, one for each chunk.
    arrivals: Vec<(usize, Instant)>,
    filter: Filter,
    closed: bool,
}

/// Why waiting ended without a match.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Missed {
    /// The deadline passed.
    Late,
    /// The program ended.
    Closed,
}

/// A pattern's occurrence.
#[derive(Clone, Debug)]
pub struct Match {
    /// Everything between where the search began and the pattern's end.
    pub text: String,
    /// Which of the patterns it was.
    pub which: usize,
    /// Offset behind the pattern.
    pub end: usize,
    /// When it arrived.
    pub at: Instant,
}

impl Default for Transcript {
    fn default() -> Self {
        Self::new()
    }
}

impl Transcript {
    /// An empty transcript.
    #[must_use]
    pub fn new() -> Self {
        Self {
            state: Mutex::default(),
            grown: Condvar::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds what came in.
    pub fn append(&self, bytes: &[u8]) {
        let mut state = self.lock();
        let at = state.text.len();
        state.arrivals.push((at, Instant::now()));
        for &byte in bytes {
            if let Some(c) = state.filter.pass(byte) {
                state.text.push(c);
            }
        }
        self.grown.notify_all();
    }

    /// Nothing will come any more.
    pub fn close(&self) {
        self.lock().closed = true;
        self.grown.notify_all();
    }

    /// Everything so far.
    #[must_use]
    pub fn text(&self) -> String {
        self.lock().text.clone()
    }

    /// How much there is so far.
    #[must_use]
    pub fn len(&self) -> usize {
        self.lock().text.len()
    }

    /// True if nothing came yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The last `count` lines.
    #[must_use]
    pub fn tail(&self, count: usize) -> String {
        let text = self.text();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(count)..].join("\n")
    }

    /// Waits for the first occurrence behind `from` of any of `patterns`.
    ///
    /// # Errors
    /// The deadline passed, or the program ended without having printed one.
    pub fn wait(&self, from: usize, patterns: &[&str], deadline: Instant) -> Result<Match, Missed> {
        let mut state = self.lock();
        loop {
            if let Some(found) = state.find(from, patterns) {
                return Ok(found);
            }
            if state.closed {
                return Err(Missed::Closed);
            }
            let Some(left) = deadline.checked_duration_since(Instant::now()) else {
                return Err(Missed::Late);
            };
            state = self
                .grown
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }
}

impl State {
    fn find(&self, from: usize, patterns: &[&str]) -> Option<Match> {
        let text = self.text.get(from..)?;
        let hits = patterns
            .iter()
            .enumerate()
            .filter_map(|(which, p)| Some((text.find(p)? + p.len(), which)));
        let (end, which) = hits.min()?;
        let arrived = self
            .arrivals
            .partition_point(|&(offset, _)| offset < from + end)
            .saturating_sub(1);
        Some(Match {
            text: text[..end].to_owned(),
            which,
            end: from + end,
            at: self
                .arrivals
                .get(arrived)
                .map_or_else(Instant::now, |&(_, at)| at),
        })
    }
}

/// Drops carriage returns and escape sequences `ESC [ … letter`.
#[derive(Default)]
struct Filter {
    escape: Escape,
}

#[derive(Default, Clone, Copy, PartialEq, Eq)]
enum Escape {
    #[default]
    No,
    Begun,
    Sequence,
}

impl Filter {
    fn pass(&mut self, byte: u8) -> Option<char> {
        match (self.escape, byte) {
            (Escape::No, 0x1b) => self.escape = Escape::Begun,
            (Escape::No, b'\r' | 0) => {}
            (Escape::No, b'\n' | b'\t' | 0x20..=0x7e) => return Some(char::from(byte)),
            (Escape::No, 8) => {}
            (Escape::No, _) => return Some('?'),
            (Escape::Begun, b'[') => self.escape = Escape::Sequence,
            (Escape::Begun, _) | (Escape::Sequence, 0x40..=0x7e) => self.escape = Escape::No,
            (Escape::Sequence, _) => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn filled(chunks: &[&[u8]]) -> Transcript {
        let transcript = Transcript::new();
        chunks.iter().for_each(|c| transcript.append(c));
        transcript
    }

    #[test]
    fn control_sequences_and_carriage_returns_do_not_reach_the_text() {
        let transcript = filled(&[b"\x1b[2", b"Ka\r\nb\x1b[0m", b"\xff"]);
        assert_eq!(transcript.text(), "a\nb?");
    }

    #[test]
    fn the_first_pattern_in_the_text_wins_and_the_search_starts_where_asked() {
        let transcript = filled(&[b"one two ", b"three two"]);
        let soon = Instant::now();
        let found = transcript
            .wait(0, &["three", "two"], soon)
            .expect("is there");
        assert_eq!(
            (found.which, found.end, found.text.as_str()),
            (1, 7, "one two")
        );
        let again = transcript
            .wait(found.end, &["two"], soon)
            .expect("is there twice");
        assert_eq!(again.end, 17);
        assert!(again.at >= found.at);
    }

    #[test]
    fn waiting_tells_a_time_out_from_an_end() {
        let transcript = filled(&[b"text"]);
        let soon = Instant::now() + Duration::from_millis(10);
        assert_eq!(
            transcript.wait(0, &["absent"], soon).unwrap_err(),
            Missed::Late
        );
        transcript.close();
        assert_eq!(
            transcript.wait(0, &["absent"], soon).unwrap_err(),
            Missed::Closed
        );
    }
}
