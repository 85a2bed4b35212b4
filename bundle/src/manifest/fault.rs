//! What may be wrong with a manifest, and how that is said.

use super::{Key, MAX_MANIFEST};
use alloc::string::String;
use core::fmt;

/// What is wrong with a manifest, and in which line (counted from 1; 0: in none of them).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Error {
    /// Line number, or 0 where no single line is to blame.
    pub line: usize,
    /// What is wrong there.
    pub fault: Fault,
}

/// What is wrong with a manifest.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Fault {
    /// More than [`MAX_MANIFEST`] bytes.
    TooLong(usize),
    /// Not UTF-8.
    NotText,
    /// The last line has no line feed at its end.
    CutOff,
    /// Not of the form `key = value`.
    NotKeyValue,
    /// No such key.
    UnknownKey(String),
    /// The key was in the line named already.
    DuplicateKey(Key, usize),
    /// More lines with the key than [`Key::max_lines`].
    TooMany(Key),
    /// The disk's source or the interface's hardware address, in words, is another line's, too.
    Repeated(Key, String),
    /// The key is in no line.
    MissingKey(Key),
    /// The key stands before one that belongs in front of it.
    OutOfOrder(Key),
    /// The value is not one of [`Key::allowed`].
    BadValue(Key, String),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "manifest")?;
        if self.line != 0 {
            write!(f, " line {}", self.line)?;
        }
        match &self.fault {
            Fault::TooLong(size) => {
                write!(f, ": {size} bytes, at most {MAX_MANIFEST} are allowed")
            }
            Fault::NotText => write!(f, ": not UTF-8 text"),
            Fault::CutOff => write!(f, ": cut off, no line feed at its end"),
            Fault::NotKeyValue => write!(f, ": not of the form 'key = value'"),
            Fault::UnknownKey(key) => {
                write!(f, ": unknown key '{}', allowed are", Shown(key))?;
                for (i, key) in Key::ALL.iter().enumerate() {
                    write!(f, "{} {}", if i == 0 { "" } else { "," }, key.as_str())?;
                }
                Ok(())
            }
            Fault::DuplicateKey(key, first) => {
                write!(f, ": key '{}' again, first in line {first}", key.as_str())
            }
            Fault::TooMany(key) => {
                let (key, max) = (key.as_str(), key.max_lines());
                write!(f, ": more than {max} '{key}' lines")
            }
            Fault::Repeated(key, what) => {
                write!(f, ": {} {} twice in one VM", key.as_str(), Shown(what))
            }
            Fault::MissingKey(key) => {
                write!(
                    f,
                    ": key '{}' is missing, must be {}",
                    key.as_str(),
                    key.allowed()
                )
            }
            Fault::OutOfOrder(key) => write!(f, ": key '{}' is out of order", key.as_str()),
            Fault::BadValue(key, value) => {
                write!(
                    f,
                    ": {} = '{}', must be {}",
                    key.as_str(),
                    Shown(value),
                    key.allowed()
                )
            }
        }
    }
}

impl core::error::Error for Error {}

/// Text from outside inside a message: escaped, and shortened so that it stays one line.
struct Shown<'a>(&'a str);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const MAX: usize = 60;
        let mut chars = self.0.chars();
        for c in chars.by_ref().take(MAX) {
            if c.is_control() {
                write!(f, "{}", c.escape_default())?
            } else {
                write!(f, "{c}")?
            }
        }
        if chars.next().is_some() {
            write!(f, "...")
        } else {
            Ok(())
        }
    }
}
