//! What a test answers.

use core::fmt::{self, Write};

/// Why a test failed: a short line kept without a heap.
#[derive(Clone, Copy)]
pub(crate) struct Text {
    bytes: [u8; 104],
    len: usize,
}

impl Text {
    /// Formats `args`, cut to what fits.
    pub(crate) fn new(args: fmt::Arguments<'_>) -> Self {
        let mut text = Self {
            bytes: [0; 104],
            len: 0,
        };
        let _ = text.write_fmt(args);
        text
    }

    /// The line.
    pub(crate) fn as_str(&self) -> &str {
        core::str::from_utf8(&self.bytes[..self.len]).unwrap_or("(not UTF-8)")
    }
}

impl Write for Text {
    fn write_str(&mut self, s: &str) -> fmt::Result {
        let room = (self.bytes.len() - self.len).min(s.len());
        self.bytes[self.len..self.len + room].copy_from_slice(&s.as_bytes()[..room]);
        self.len += room;
        Ok(())
    }
}

/// How a test ended, if not by passing.
pub(crate) enum Problem {
    /// The property does not hold.
    Fail(Text),
    /// The test makes no sense on this machine.
    Skip(&'static str),
}

/// A test's answer.
pub(crate) type Verdict = Result<(), Problem>;

/// Ends the test with a failure.
macro_rules! fail {
    ($($arg:tt)*) => {
        return Err($crate::verdict::Problem::Fail($crate::verdict::Text::new(format_args!($($arg)*))))
    };
}
pub(crate) use fail;

/// Ends the test with a failure unless the condition holds.
macro_rules! check {
    ($condition:expr, $($arg:tt)*) => {
        if !$condition {
            $crate::verdict::fail!($($arg)*);
        }
    };
}
pub(crate) use check;

/// Ends the test with a failure unless both are equal.
macro_rules! check_eq {
    ($left:expr, $right:expr, $($arg:tt)*) => {{
        let (left, right) = ($left, $right);
        if left != right {
            $crate::verdict::fail!("{}: {:#x}, not {:#x}", format_args!($($arg)*), left, right);
        }
    }};
}
pub(crate) use check_eq;
