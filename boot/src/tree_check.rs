//! Structural check of a flattened device tree (Devicetree Specification 0.4, chapter 5) before the
//! `fdt` crate reads it. That crate panics on a malformed tree and stops at NOP tokens, so this
//! refuses the one with a reason and squeezes the others out.

/// First word of a tree.
pub const MAGIC: u32 = 0xD00D_FEED;
/// Bytes of the header.
pub const HEADER_SIZE: usize = 40;
/// Largest tree accepted.
pub const MAX_SIZE: usize = 4 << 20;
/// Deepest nesting accepted: readers recurse, on a small stack without a guard page yet.
const MAX_DEPTH: u32 = 16;
/// Oldest version understood: the last one without the structure block's size is 16.
const VERSION: u32 = 17;

const BEGIN_NODE: u32 = 1;
const END_NODE: u32 = 2;
const PROP: u32 = 3;
const NOP: u32 = 4;
const END: u32 = 9;

/// What is wrong, and at which byte offset in the tree.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TreeError {
    /// The reason.
    pub what: &'static str,
    /// Byte offset of the trouble.
    pub offset: usize,
    /// Base of the first PL011 seen before the trouble, to say so on; 0 if none was.
    pub pl011: u64,
}

/// Total size from the header at the start of `tree`, if it looks like one.
#[must_use]
pub fn total_size(header: &[u8]) -> Option<usize> {
    let size = word(header, 4)? as usize;
    (word(header, 0)? == MAGIC && (HEADER_SIZE..=MAX_SIZE).contains(&size)).then_some(size)
}

/// Checks the whole of `tree` and removes NOP tokens from it, in place.
///
/// # Errors
/// The first thing that is wrong. The tree may have lost NOPs by then, nothing else.
pub fn normalise(tree: &mut [u8]) -> Result<(), TreeError> {
    let fail = |what, offset| {
        Err(TreeError {
            what,
            offset,
            pl011: 0,
        })
    };
    let Some(size) = total_size(tree) else {
        return fail("bad magic or size", 0);
    };
    let Some(tree) = tree.get_mut(..size) else {
        return fail("cut off", 4);
    };
    let field = |offset| word(tree, offset).unwrap_or(0) as usize;
    let (structure, strings, reservations) = (field(8), field(12), field(16));
    let (strings_size, structure_size) = (field(32), field(36));
    if (word(tree, 20).unwrap_or(0)) < VERSION {
        return fail("version older than 17", 20);
    }
    if !structure.is_multiple_of(4) || !structure_size.is_multiple_of(4) {
        return fail("structure block not aligned", 8);
    }
    // Each offset and size is below 2^32, so the sums cannot wrap.
    if structure < HEADER_SIZE || structure + structure_size > size {
        return fail("structure block outside the tree", 8);
    }
    if strings < HEADER_SIZE || strings + strings_size > size {
        return fail("strings block outside the tree", 12);
    }
    if strings < structure + structure_size && structure < strings + strings_size {
        return fail("structure and strings overlap", 12);
    }
    check_reservations(tree, reservations)?;
    let mut walk = Walk {
        tree,
        end: structure + structure_size,
        strings: strings..strings + strings_size,
        at: structure,
        out: structure,
        pl011: 0,
    };
    let used = walk.run(structure)?;
    if let Some(slot) = tree.get_mut(36..40) {
        slot.copy_from_slice(&(used as u32).to_be_bytes());
    }
    Ok(())
}

/// The reservation block must end with a zero pair inside the tree.
fn check_reservations(tree: &[u8], start: usize) -> Result<(), TreeError> {
    let fail = |what, offset| {
        Err(TreeError {
            what,
            offset,
            pl011: 0,
        })
    };
    if start < HEADER_SIZE || !start.is_multiple_of(8) {
        return fail("bad offset of the reservation block", 16);
    }
    let mut at = start;
    loop {
        match tree.get(at..at.saturating_add(16)) {
            None => return fail("reservation block does not end", at),
            Some(pair) if pair.iter().all(|&byte| byte == 0) => return Ok(()),
            Some(_) => at += 16,
        }
    }
}

/// Reads tokens from `at` and writes them back to `out`, which falls behind by the NOPs skipped.
struct Walk<'a> {
    tree: &'a mut [u8],
    end: usize,
    strings: core::ops::Range<usize>,
    at: usize,
    out: usize,
    pl011: u64,
}

impl Walk<'_> {
    fn fail<T>(&self, what: &'static str) -> Result<T, TreeError> {
        Err(TreeError {
            what,
            offset: self.at,
            pl011: self.pl011,
        })
    }

    /// Walks the structure block; returns its new size.
    fn run(&mut self, start: usize) -> Result<usize, TreeError> {
        let mut depth = 0;
        let mut node = NodeHint::default();
        // Properties come before child nodes; the root is the only node without a parent.
        let mut properties_allowed = false;
        loop {
            let Some(token) = self.peek(0) else {
                return self.fail("structure block cut off");
            };
            match token {
                NOP => self.at += 4,
                BEGIN_NODE => {
                    if depth == MAX_DEPTH {
                        return self.fail("nodes nested too deeply");
                    }
                    if depth == 0 && self.out != start {
                        return self.fail("second root node");
                    }
                    let length = self.name_length()?;
                    depth += 1;
                    properties_allowed = true;
                    node = NodeHint::default();
                    self.keep(4 + length)?;
                }
                PROP if properties_allowed => self.property(&mut node)?,
                PROP => return self.fail("property after a child node, or outside any"),
                END_NODE if depth > 0 => {
                    depth -= 1;
                    properties_allowed = false;
                    self.keep(4)?;
                }
                END_NODE => return self.fail("end of a node that never began"),
                END if depth == 0 && self.out != start => {
                    self.keep(4)?;
                    return Ok(self.out - start);
                }
                END => return self.fail("ends inside a node"),
                _ => return self.fail("unknown token"),
            }
        }
    }

    /// Bytes of the node name after a BEGIN_NODE token, with its NUL and padding.
    fn name_length(&self) -> Result<usize, TreeError> {
        let rest = self.tree.get(self.at + 4..self.end).unwrap_or(&[]);
        match rest.iter().position(|&byte| byte == 0) {
            Some(length) if rest.get(..length).is_some_and(<[u8]>::is_ascii) => {
                Ok((length + 4) & !3)
            }
            Some(_) => self.fail("node name is not ASCII"),
            None => self.fail("node name does not end"),
        }
    }

    fn property(&mut self, node: &mut NodeHint) -> Result<(), TreeError> {
        let (Some(length), Some(name)) = (self.peek(4), self.peek(8)) else {
            return self.fail("property cut off");
        };
        let (length, name) = (length as usize, name as usize);
        let Some(value) = self
            .tree
            .get(self.at + 12..self.end)
            .and_then(|rest| rest.get(..length))
        else {
            return self.fail("property value longer than the tree");
        };
        let strings = self
            .tree
            .get(self.strings.clone())
            .and_then(|block| block.get(name..));
        let name = strings
            .and_then(|rest| rest.get(..rest.iter().position(|&byte| byte == 0)?))
            .filter(|name| name.is_ascii());
        let Some(name) = name else {
            return self.fail("property name outside the strings block");
        };
        match name {
            b"#address-cells" | b"#size-cells" if length != 4 => {
                return self.fail("#address-cells or #size-cells is not one cell");
            }
            b"#address-cells" | b"#size-cells" if value.get(..3) != Some(&[0; 3]) => {
                return self.fail("absurd #address-cells or #size-cells");
            }
            b"compatible" => node.pl011 = contains(value, b"arm,pl011"),
            b"reg" => node.base = value.first_chunk().map(|bytes| u64::from_be_bytes(*bytes)),
            _ => {}
        }
        if let (true, Some(base), 0) = (node.pl011, node.base, self.pl011) {
            self.pl011 = base;
        }
        self.keep(12 + ((length + 3) & !3))
    }

    /// The word `offset` bytes further on.
    fn peek(&self, offset: usize) -> Option<u32> {
        word(self.tree.get(..self.end)?, self.at + offset)
    }

    /// Keeps the next `length` bytes.
    fn keep(&mut self, length: usize) -> Result<(), TreeError> {
        if length > self.end - self.at {
            return self.fail("padding cut off");
        }
        if self.out != self.at {
            // Both lie inside: `out` is behind `at`.
            self.tree.copy_within(self.at..self.at + length, self.out);
        }
        self.at += length;
        self.out += length;
        Ok(())
    }
}

/// What is known of the node whose properties are being read.
#[derive(Default)]
struct NodeHint {
    pl011: bool,
    base: Option<u64>,
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack
        .windows(needle.len())
        .any(|window| window == needle)
}

fn word(bytes: &[u8], offset: usize) -> Option<u32> {
    let rest = bytes.get(offset..)?;
    rest.first_chunk().map(|bytes| u32::from_be_bytes(*bytes))
}
