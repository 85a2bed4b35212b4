//! What became of an attack.

use core::fmt::{self, Write};

/// A short text without a heap; what does not fit is cut off.
#[derive(Clone, Copy)]
pub(crate) struct Text {
    bytes: [u8; 160],
    length: usize,
}

impl Text {
    /// The formatted text.
    pub(crate) fn new(text: fmt::Arguments<'_>) -> Self {
        let mut new = Self {
            bytes: [0; 160],
            length: 0,
        };
        let _ = new.write_fmt(text);
        new
    }
}

impl Write for Text {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for (slot, byte) in self.bytes[self.length..].iter_mut().zip(text.bytes()) {
            *slot = if byte.is_ascii() { byte } else { b'?' };
            self.length += 1;
        }
        Ok(())
    }
}

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(core::str::from_utf8(&self.bytes[..self.length]).unwrap_or("?"))
    }
}

/// An attack that was not simply refused.
pub(crate) enum Failure {
    /// It got what it wanted.
    Succeeded(Text),
    /// Its precondition does not hold: it attacked nothing. As bad as a success.
    Void(Text),
    /// This machine has nothing to attack.
    Skipped(&'static str),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Succeeded(text) | Self::Void(text) => text.fmt(f),
            Self::Skipped(text) => text.fmt(f),
        }
    }
}

/// How it was refused, or else.
pub(crate) type Outcome = Result<Text, Failure>;

impl<E: fmt::Debug> From<E> for Failure {
    /// An error on the way to the attack proper: `?` is for preparations.
    fn from(error: E) -> Self {
        Self::Void(Text::new(format_args!("preparation: {error:x?}")))
    }
}

/// `Ok`: refused, and how.
macro_rules! refused {
    ($($text:tt)*) => { Ok($crate::verdict::Text::new(format_args!($($text)*))) };
}

/// Ends the attack as a success unless the condition holds.
macro_rules! require {
    ($condition:expr, $($text:tt)*) => {
        if !$condition {
            return Err($crate::verdict::Failure::Succeeded($crate::verdict::Text::new(format_args!($($text)*))));
        }
    };
}

/// Ends the attack as void unless its precondition holds.
macro_rules! given {
    ($condition:expr, $($text:tt)*) => {
        if !$condition {
            return Err($crate::verdict::Failure::Void($crate::verdict::Text::new(format_args!($($text)*))));
        }
    };
}
pub(crate) use {given, refused, require};
