//! Half-open physical ranges, and a small fixed-capacity list of them. No heap exists yet at boot.

/// Physical bytes `start..end`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Range {
    /// First byte.
    pub start: u64,
    /// One past the last byte.
    pub end: u64,
}

impl Range {
    /// The range of `size` bytes from `base`; cut off at 2^64 - 1 where it would wrap.
    #[must_use]
    pub const fn sized(base: u64, size: u64) -> Self {
        Self {
            start: base,
            end: base.saturating_add(size),
        }
    }

    /// Length in bytes.
    #[must_use]
    pub const fn size(self) -> u64 {
        self.end.saturating_sub(self.start)
    }

    /// True if no byte lies in it.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.end <= self.start
    }

    /// True if both have a byte in common.
    #[must_use]
    pub const fn overlaps(self, other: Self) -> bool {
        self.start < other.end && other.start < self.end
    }

    /// True if `other` lies wholly inside.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.start <= other.start && other.end <= self.end
    }

    /// The smallest range of whole `align`-sized blocks around this one (`align` a power of two).
    #[must_use]
    pub const fn grown_to(self, align: u64) -> Self {
        Self {
            start: self.start & !(align - 1),
            end: align_up(self.end, align),
        }
    }

    /// The largest range of whole `align`-sized blocks inside this one; may be empty.
    #[must_use]
    pub const fn shrunk_to(self, align: u64) -> Self {
        Self {
            start: align_up(self.start, align),
            end: self.end & !(align - 1),
        }
    }
}

/// `value` rounded up to a multiple of `align` (a power of two); the last multiple below 2^64 where
/// that would wrap.
#[must_use]
pub const fn align_up(value: u64, align: u64) -> u64 {
    match value.checked_add(align - 1) {
        Some(sum) => sum & !(align - 1),
        None => !(align - 1),
    }
}

/// The list is full.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Full;

/// At most `N` items, in place.
#[derive(Clone, Copy, Debug)]
pub struct List<T: Copy, const N: usize> {
    items: [T; N],
    len: usize,
}

impl<T: Copy + Default, const N: usize> Default for List<T, N> {
    fn default() -> Self {
        Self {
            items: [T::default(); N],
            len: 0,
        }
    }
}

impl<T: Copy, const N: usize> core::ops::Deref for List<T, N> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        self.items.get(..self.len).unwrap_or(&[])
    }
}

impl<T: Copy, const N: usize> core::ops::DerefMut for List<T, N> {
    fn deref_mut(&mut self) -> &mut [T] {
        self.items.get_mut(..self.len).unwrap_or(&mut [])
    }
}

impl<T: Copy, const N: usize> List<T, N> {
    /// Appends `item`.
    ///
    /// # Errors
    /// [`Full`] when `N` items are in the list.
    pub fn push(&mut self, item: T) -> Result<(), Full> {
        let slot = self.items.get_mut(self.len).ok_or(Full)?;
        *slot = item;
        self.len += 1;
        Ok(())
    }

    /// Removes the item at `index` and returns it; the order of the others is not kept.
    pub fn swap_remove(&mut self, index: usize) -> Option<T> {
        let item = *self.get(index)?;
        self.len -= 1;
        let last = *self.items.get(self.len)?;
        *self.items.get_mut(index)? = last;
        Some(item)
    }
}

impl<const N: usize> List<Range, N> {
    /// Takes the bytes of `hole` out of every range in the list. A piece that no longer fits is lost:
    /// the smallest pieces go first, and their bytes are returned.
    pub fn subtract(&mut self, hole: Range) -> u64 {
        let mut lost = 0;
        let mut index = 0;
        while let Some(&range) = self.get(index) {
            if hole.is_empty() || !range.overlaps(hole) {
                index += 1;
                continue;
            }
            self.swap_remove(index);
            for piece in [
                Range {
                    start: range.start,
                    end: hole.start.min(range.end),
                },
                Range {
                    start: hole.end.max(range.start),
                    end: range.end,
                },
            ] {
                if !piece.is_empty() {
                    lost += self.push_or_drop_smallest(piece);
                }
            }
            index = 0;
        }
        lost
    }

    /// Appends `range`; when full, the smallest of all is given up. Returns the bytes given up.
    pub fn push_or_drop_smallest(&mut self, range: Range) -> u64 {
        if self.push(range).is_ok() {
            return 0;
        }
        let Some(smallest) = self.iter_mut().min_by_key(|r| r.size()) else {
            return range.size();
        };
        if smallest.size() < range.size() {
            core::mem::replace(smallest, range).size()
        } else {
            range.size()
        }
    }

    /// Sorts by address and joins ranges that touch or overlap.
    pub fn normalise(&mut self) {
        self.sort_unstable_by_key(|r| r.start);
        let mut joined = Self {
            items: self.items,
            len: 0,
        };
        for &range in self.iter().filter(|r| !r.is_empty()) {
            match joined.last_mut() {
                Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
                // `joined` never holds more than `self` did.
                _ => drop(joined.push(range)),
            }
        }
        *self = joined;
    }

    /// Sum of the sizes.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.iter().map(|r| r.size()).sum()
    }
}
