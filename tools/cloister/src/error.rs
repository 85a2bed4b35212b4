//! The one kind of error this tool reports: a line that says what and where, and an exit status.

use std::fmt;
use std::path::Path;

/// Why the tool stops. Its text is always one line.
#[derive(Debug)]
pub(crate) struct Error {
    status: u8,
    message: String,
}

/// Result of everything that can end the tool.
pub(crate) type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// Bad usage, configuration or input file: exit status 2.
    pub(crate) fn config(message: impl fmt::Display) -> Self {
        Self::new(2, message)
    }

    /// The machine ran, and not all went well: exit status 1.
    pub(crate) fn machine(message: impl fmt::Display) -> Self {
        Self::new(1, message)
    }

    /// The run took longer than `--timeout`: exit status 124, as timeout(1) has it.
    pub(crate) fn timed_out(message: impl fmt::Display) -> Self {
        Self::new(124, message)
    }

    /// Ended by signal `number`: exit status 128 + number, as shells have it.
    pub(crate) fn signal(number: i32) -> Self {
        let status = u8::try_from(number).unwrap_or(127).saturating_add(128);
        Self::new(status, format_args!("ended by signal {number}"))
    }

    /// An operation on a file failed.
    pub(crate) fn file(path: &Path, error: &std::io::Error) -> Self {
        Self::config(format_args!("{}: {}", path.display(), io_reason(error)))
    }

    fn new(status: u8, message: impl fmt::Display) -> Self {
        let text = message.to_string();
        let lines: Vec<&str> = text
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty())
            .collect();
        Self {
            status,
            message: lines.join(" "),
        }
    }

    /// The process's exit status.
    pub(crate) fn status(&self) -> u8 {
        self.status
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// What went wrong with a file, in words, without the error number.
pub(crate) fn io_reason(error: &std::io::Error) -> String {
    let text = error.to_string();
    match text.find(" (os error") {
        Some(end) => text[..end].to_owned(),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::Error;

    #[test]
    fn an_error_is_one_line() {
        assert_eq!(Error::config("a\n\n  b\n").to_string(), "a b");
    }
}
