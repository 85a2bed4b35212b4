//! The shell's line editor: echo, backspace, Ctrl-U, Ctrl-C, history, completion. Made for a serial
//! line: writes plain ASCII and backspaces, and lines of its own for what comes in between.

use super::parse::complete;
use crate::console::Output;
use alloc::collections::VecDeque;
use alloc::string::String;

/// The prompt.
pub const PROMPT: &str = "cloister> ";
/// Longest line; more is answered with a bell.
pub const MAX_LINE: usize = 200;
/// Lines remembered.
pub const HISTORY: usize = 16;

/// Asks for completion.
pub const TAB: u8 = b'\t';

const BELL: &[u8] = b"\x07";

/// Where in an escape sequence (ECMA-48 CSI) the input is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Escape {
    None,
    /// After ESC.
    Start,
    /// After ESC [ or ESC O, and any parameters.
    Sequence,
}

/// Edits one line at a time.
#[derive(Debug)]
pub struct Editor {
    /// Printable ASCII, at most [`MAX_LINE`] of it.
    line: String,
    history: VecDeque<String>,
    /// Place in the history, counted back from the newest, from 1; 0 is the line being typed.
    place: usize,
    /// The line being typed, while the history is looked at.
    draft: String,
    escape: Escape,
    /// The last byte was a carriage return: a line feed that follows belongs to it.
    after_return: bool,
}

impl Editor {
    /// An empty line and no history.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            line: String::new(),
            history: VecDeque::new(),
            place: 0,
            draft: String::new(),
            escape: Escape::None,
            after_return: false,
        }
    }

    /// Starts a new line.
    pub fn prompt(&mut self, out: &mut dyn Output) {
        self.line.clear();
        self.draft.clear();
        self.place = 0;
        self.escape = Escape::None;
        self.redraw(out);
    }

    /// Prints prompt and line again, at the start of a terminal line.
    pub fn redraw(&self, out: &mut dyn Output) {
        out.write(PROMPT.as_bytes());
        out.write(self.line.as_bytes());
    }

    /// Takes one typed byte; a finished line is given out. `names` are the VMs' names, for
    /// completion (asked for by [`TAB`] only).
    pub fn input(&mut self, byte: u8, names: &[&str], out: &mut dyn Output) -> Option<String> {
        let after_return = core::mem::take(&mut self.after_return);
        if self.escape != Escape::None {
            self.escape_sequence(byte, out);
            return None;
        }
        match byte {
            b'\n' if after_return => {}
            b'\r' | b'\n' => {
                self.after_return = byte == b'\r';
                out.write(b"\r\n");
                let line = core::mem::take(&mut self.line);
                self.remember(&line);
                return Some(line);
            }
            // Backspace and Delete.
            0x08 | 0x7f => self.erase(out),
            // Ctrl-U.
            0x15 => self.replace(String::new(), out),
            // Ctrl-C.
            0x03 => {
                out.write(b"^C\r\n");
                self.prompt(out);
            }
            TAB => self.complete(names, out),
            0x1b => self.escape = Escape::Start,
            b' '..=b'~' => self.append(&[byte], out),
            // Other control characters, and what is not ASCII.
            _ => {}
        }
        None
    }

    fn append(&mut self, text: &[u8], out: &mut dyn Output) {
        for &byte in text {
            if self.line.len() >= MAX_LINE || self.line.try_reserve(1).is_err() {
                out.write(BELL);
                return;
            }
            self.line.push(char::from(byte));
            out.write(&[byte]);
        }
    }

    fn erase(&mut self, out: &mut dyn Output) {
        if self.line.pop().is_some() {
            out.write(b"\x08 \x08");
        }
    }

    /// Replaces the line, on the terminal too.
    fn replace(&mut self, line: String, out: &mut dyn Output) {
        for _ in 0..self.line.len() {
            out.write(b"\x08 \x08");
        }
        self.line = line;
        out.write(self.line.as_bytes());
    }

    fn escape_sequence(&mut self, byte: u8, out: &mut dyn Output) {
        self.escape = match (self.escape, byte) {
            (Escape::Start, b'[' | b'O') => Escape::Sequence,
            // Parameter and intermediate bytes.
            (Escape::Sequence, 0x20..=0x3f) => Escape::Sequence,
            (Escape::Sequence, final_byte) => {
                match final_byte {
                    b'A' => self.browse(self.place.saturating_add(1), out),
                    b'B' => self.browse(self.place.saturating_sub(1), out),
                    _ => {}
                }
                Escape::None
            }
            _ => Escape::None,
        };
    }

    /// Shows the line at `place` of the history, if there is one.
    fn browse(&mut self, place: usize, out: &mut dyn Output) {
        let line = match self.history.len().checked_sub(place) {
            None => None,
            Some(_) if place == 0 => Some(core::mem::take(&mut self.draft)),
            Some(index) => self.history.get(index).cloned(),
        };
        if let (Some(line), true) = (line, place != self.place) {
            if self.place == 0 {
                self.draft = self.line.clone();
            }
            self.place = place;
            self.replace(line, out);
        }
    }

    fn remember(&mut self, line: &str) {
        self.place = 0;
        if line.trim().is_empty() || self.history.back().is_some_and(|last| last == line) {
            return;
        }
        if self.history.len() >= HISTORY {
            self.history.pop_front();
        }
        self.history.push_back(line.into());
    }

    /// Completes the last word as far as it is unambiguous; shows the choices if it is not.
    fn complete(&mut self, names: &[&str], out: &mut dyn Output) {
        let (typed, words) = complete(&self.line, names);
        let (Some(first), more) = (words.first(), words.len() > 1) else {
            out.write(BELL);
            return;
        };
        let common = words.iter().fold(*first, |common, word| {
            let same = common
                .bytes()
                .zip(word.bytes())
                .take_while(|(a, b)| a == b)
                .count();
            common.get(..same).unwrap_or_default()
        });
        let mut rest = String::from(common.get(typed.len()..).unwrap_or_default());
        if rest.is_empty() && more {
            out.write(b"\r\n");
            for word in words {
                out.write(word.as_bytes());
                out.write(b"  ");
            }
            out.write(b"\r\n");
            self.redraw(out);
            return;
        }
        if !more {
            rest.push(' ');
        }
        self.append(rest.as_bytes(), out);
    }
}

impl Default for Editor {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
#[path = "editor_tests.rs"]
mod tests;
