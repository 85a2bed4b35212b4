//! Reading files that a person names.

use std::fs;
use std::io::{Error, Result};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Reads a whole file. One without an end, or that may never begin (a device, a pipe), is refused.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>> {
    // Before it is opened: to open a pipe waits for who writes to it.
    if !fs::metadata(path)?.is_file() {
        return Err(Error::other("not a regular file"));
    }
    fs::read(path)
}

/// Like [`read`], for text.
pub(crate) fn read_text(path: &Path) -> Result<String> {
    String::from_utf8(read(path)?).map_err(|_| Error::other("not UTF-8 text"))
}

/// A file, however it is called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum FileId {
    Inode(u64, u64),
    Missing(PathBuf),
}

impl FileId {
    pub(crate) fn of(path: &Path) -> Self {
        match fs::metadata(path) {
            Ok(meta) => Self::Inode(meta.dev(), meta.ino()),
            Err(_) => Self::Missing(path.to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_no_end_is_not_read() {
        for path in ["/dev/zero", "/", "/dev/null"] {
            let error = read(Path::new(path)).unwrap_err();
            assert_eq!(error.to_string(), "not a regular file", "{path}");
        }
    }
}
