//! Just enough of Rust's lexical structure to count lines and unsafe code without comments, strings
//! and tests.

use std::ops::Range;
use std::path::{Path, PathBuf};

/// What is counted.
#[derive(Default, Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Counts {
    /// Lines that are not blank.
    pub(super) lines: usize,
    /// Lines that hold more than a comment.
    pub(super) code: usize,
    /// `unsafe { … }`.
    pub(super) unsafe_blocks: usize,
    /// Every other use of the word.
    pub(super) unsafe_items: usize,
}

impl Counts {
    pub(super) fn add(&mut self, other: &Self) {
        self.lines += other.lines;
        self.code += other.code;
        self.unsafe_blocks += other.unsafe_blocks;
        self.unsafe_items += other.unsafe_items;
    }
}

/// A source file, taken apart.
pub(super) struct Source {
    text: String,
    /// The text with comments and the contents of strings blanked; same length, same lines.
    bare: String,
    /// Byte ranges of items under `#[cfg(test)]`.
    tests: Vec<Range<usize>>,
}

impl Source {
    pub(super) fn new(text: &str) -> Self {
        let bare = blank(text);
        let tests = test_items(&bare);
        Self {
            text: text.to_owned(),
            bare,
            tests,
        }
    }

    pub(super) fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        let mut start = 0;
        for (line, bare) in self.text.split('\n').zip(self.bare.split('\n')) {
            if !self.in_test(start) {
                counts.lines += usize::from(!line.trim().is_empty());
                counts.code += usize::from(!bare.trim().is_empty());
            }
            start += line.len() + 1;
        }
        for (at, _) in self.bare.match_indices("unsafe") {
            let before = self.bare[..at].chars().next_back();
            let after = &self.bare[at + "unsafe".len()..];
            if before.is_some_and(is_word) || after.starts_with(is_word) || self.in_test(at) {
                continue;
            }
            if after.trim_start().starts_with('{') {
                counts.unsafe_blocks += 1;
            } else {
                counts.unsafe_items += 1;
            }
        }
        counts
    }

    /// Files that `#[cfg(test)] mod NAME;` in this file (at `path`) brings in.
    pub(super) fn test_modules(&self, path: &Path) -> Vec<PathBuf> {
        let folder = path.parent().unwrap_or(Path::new(""));
        let stem = path
            .file_stem()
            .and_then(|s| s.to_str())
            .unwrap_or_default();
        let mut files = Vec::new();
        for range in &self.tests {
            let item = &self.text[range.clone()];
            if let Some(named) = between(item, "#[path = \"", "\"]") {
                files.push(folder.join(named));
            } else if let Some(name) = between(item, "mod ", ";").filter(|n| n.chars().all(is_word))
            {
                let folder = match stem {
                    "lib" | "main" | "mod" => folder.to_owned(),
                    _ => folder.join(stem),
                };
                files.push(folder.join(format!("{name}.rs")));
                files.push(folder.join(name).join("mod.rs"));
            }
        }
        files
    }

    fn in_test(&self, at: usize) -> bool {
        self.tests.iter().any(|range| range.contains(&at))
    }
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn between<'a>(text: &'a str, start: &str, end: &str) -> Option<&'a str> {
    Some(text.split_once(start)?.1.split_once(end)?.0)
}

/// What makes an item a test's: never in the shipped image. The second is for simulations that other
/// crates' tests use, with the feature's name blanked.
const TEST_ATTRIBUTES: [&str; 2] = ["#[cfg(test)]", "#[cfg(any(test, feature = \"\"\"\"\"))]"];

/// Ranges of the items that stand under one of [`TEST_ATTRIBUTES`], attributes included. `bare` has no
/// braces in strings or comments.
fn test_items(bare: &str) -> Vec<Range<usize>> {
    let mut ranges: Vec<Range<usize>> = Vec::new();
    let mut found: Vec<(usize, &str)> = TEST_ATTRIBUTES
        .iter()
        .flat_map(|attribute| bare.match_indices(attribute))
        .collect();
    found.sort_unstable();
    for (start, found) in found {
        if ranges.last().is_some_and(|r| r.contains(&start)) {
            continue;
        }
        // To the `;` of a declaration, or the `}` that closes the first brace.
        let mut depth = 0_usize;
        let mut brackets = 0_usize;
        let mut end = bare.len();
        for (i, c) in bare[start + found.len()..].char_indices() {
            match c {
                '[' | '(' => brackets += 1,
                ']' | ')' => brackets = brackets.saturating_sub(1),
                '{' => depth += 1,
                '}' => depth = depth.saturating_sub(1),
                _ => {}
            }
            let closed = c == '}' || c == ';' && brackets == 0;
            if closed && depth == 0 {
                end = start + found.len() + i + 1;
                break;
            }
        }
        // From the start of its line, so that the line does not count.
        let line = bare[..start].rfind('\n').map_or(0, |n| n + 1);
        ranges.push(line..end);
    }
    ranges
}

/// Blanks comments and the contents of string and character literals.
fn blank(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let literal = match c {
            '/' if rest.starts_with("//") => rest.find('\n').unwrap_or(rest.len()),
            '/' if rest.starts_with("/*") => block_comment(rest),
            '"' => string(rest),
            'r' | 'b' | 'c' if !out.chars().next_back().is_some_and(is_word) => {
                raw_string(rest).unwrap_or(0)
            }
            '\'' => character(rest).unwrap_or(0),
            _ => 0,
        };
        if literal == 0 {
            out.push(c);
            rest = &rest[c.len_utf8()..];
        } else {
            let (skipped, after) = rest.split_at(literal);
            let comment = skipped.starts_with('/');
            for byte in skipped.bytes() {
                out.push(match byte {
                    b'\n' => '\n',
                    // A string is still code on its line.
                    _ if comment => ' ',
                    _ => '"',
                });
            }
            rest = after;
        }
    }
    out
}

/// Length of the nested block comment at the start of `text`.
fn block_comment(text: &str) -> usize {
    let mut depth = 0_usize;
    let mut at = 0;
    while let Some(rest) = text.get(at..).filter(|r| !r.is_empty()) {
        if rest.starts_with("/*") {
            depth += 1;
            at += 2;
        } else if rest.starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += rest.chars().next().map_or(1, char::len_utf8);
        }
    }
    text.len()
}

/// Length of the string literal at the start of `text`.
fn string(text: &str) -> usize {
    let mut escaped = false;
    for (i, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return i + 1,
            _ => {}
        }
    }
    text.len()
}

/// Length of the raw string literal (`r"…"`, `br#"…"#`, `cr"…"`) at the start of `text`, if it is one.
fn raw_string(text: &str) -> Option<usize> {
    let prefix = ["r", "br", "cr"].iter().find(|p| {
        text.strip_prefix(**p)
            .is_some_and(|t| t.trim_start_matches('#').starts_with('"'))
    })?;
    let after = &text[prefix.len()..];
    let hashes = after.len() - after.trim_start_matches('#').len();
    let open = prefix.len() + hashes + 1;
    let close = format!("\"{}", "#".repeat(hashes));
    let length = text[open..]
        .find(&close)
        .map_or(text.len(), |n| open + n + close.len());
    Some(length)
}

/// Length of the character literal at the start of `text`; `None` for a lifetime.
fn character(text: &str) -> Option<usize> {
    let mut chars = text.char_indices().skip(1);
    let (_, first) = chars.next()?;
    if first == '\\' {
        let (_, _escaped) = chars.next()?;
        return chars.find(|(_, c)| *c == '\'').map(|(i, _)| i + 1);
    }
    let (i, second) = chars.next()?;
    (second == '\'').then_some(i + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(text: &str) -> Counts {
        Source::new(text).counts()
    }

    #[test]
    fn comments_and_blank_lines_are_told_apart() {
        let c = counts("//! doc\n\nfn a() {} // tail\n/* two\n lines /* nested */ */ fn b() {}\n");
        assert_eq!((c.lines, c.code), (4, 2));
    }

    #[test]
    fn unsafe_counts_only_as_a_keyword_in_code() {
        let text = "#![forbid(unsafe_code)]\n// unsafe { }\nconst A: &str = \"unsafe { \\\" \";\n\
                    const B: &str = r#\"unsafe {\" \"#;\nfn a<'a>(c: char) { if c == '\"' {} }\n";
        let c = counts(text);
        assert_eq!((c.unsafe_blocks, c.unsafe_items), (0, 0));
        let c = counts("unsafe fn f() { unsafe { g() } }\n#[unsafe(no_mangle)]\nfn h() {}\n");
        assert_eq!((c.unsafe_blocks, c.unsafe_items), (1, 2));
    }

    #[test]
    fn test_items_are_left_out() {
        let text = "fn a() {}\n#[cfg(test)]\nmod tests {\n  fn b() { let s = \"}\"; unsafe { c() } }\n}\nfn d() {}\n";
        let c = counts(text);
        assert_eq!((c.lines, c.unsafe_blocks), (2, 0));
        let c = counts("#[cfg(test)]\nuse a::{b, c};\nfn d() {}\n");
        assert_eq!(c.lines, 1);
        let c = counts("#[cfg(test)]\nfn f(a: [u8; 3]) {\n}\nfn d() {}\n");
        assert_eq!(c.lines, 1);
    }

    #[test]
    fn test_files_are_found() {
        let source = Source::new("#[cfg(test)]\n#[path = \"x_tests.rs\"]\nmod tests;\n");
        assert_eq!(
            source.test_modules(Path::new("a/src/x.rs")),
            [Path::new("a/src/x_tests.rs")]
        );
        let source = Source::new("#[cfg(test)]\nmod tests;\n");
        assert_eq!(
            source.test_modules(Path::new("a/src/x.rs")),
            [
                Path::new("a/src/x/tests.rs"),
                Path::new("a/src/x/tests/mod.rs")
            ]
        );
        let c = counts("#[cfg(any(test, feature = \"sim\"))]\npub mod sim;\nfn d() {}\n");
        assert_eq!(c.lines, 1);
        let source = Source::new("#[cfg(test)]\nmod tests {\n use super::*; }\n");
        assert!(source.test_modules(Path::new("a/src/x.rs")).is_empty());
    }
}
