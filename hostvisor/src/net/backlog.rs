//! Frames that wait, in order, for buffers to become free: a bounded number of bytes.

use super::NetHeader;
use super::frame::Frame;
use crate::hw::{self, Unreachable};
use alloc::collections::VecDeque;
use alloc::vec::Vec;

/// What a waiting frame takes besides its bytes.
const OVERHEAD: usize = 64;

/// A frame that waits.
pub struct Waiting {
    header: NetHeader,
    bytes: Vec<u8>,
}

impl Waiting {
    /// The frame.
    #[must_use]
    pub fn frame(&self) -> Option<Frame<'_>> {
        Frame::own(self.header, &self.bytes)
    }

    /// Bytes of the frame.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// A frame has bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }
}

/// Frames that wait.
pub struct Backlog {
    frames: VecDeque<Waiting>,
    bytes: usize,
    limit: usize,
}

impl Backlog {
    /// Nothing waits; at most `limit` bytes ever will.
    #[must_use]
    pub const fn new(limit: usize) -> Self {
        Self {
            frames: VecDeque::new(),
            bytes: 0,
            limit,
        }
    }

    /// True if nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// Forgets all of them.
    pub fn clear(&mut self) {
        self.frames = VecDeque::new();
        self.bytes = 0;
    }

    /// Puts a copy of `frame` behind the others. False if there is no room for it, here or in a heap that is low.
    pub fn keep(&mut self, frame: &Frame<'_>) -> Result<bool, Unreachable> {
        let bytes = self.bytes + frame.len() + OVERHEAD;
        if bytes > self.limit || hw::heap_is_low() {
            return Ok(false);
        }
        let Some(copy) = frame.to_vec()? else {
            return Ok(false);
        };
        self.frames.push_back(Waiting {
            header: frame.header,
            bytes: copy,
        });
        self.bytes = bytes;
        Ok(true)
    }

    /// Takes the first one.
    pub fn pop(&mut self) -> Option<Waiting> {
        let first = self.frames.pop_front()?;
        self.bytes = self.bytes.saturating_sub(first.len() + OVERHEAD);
        Some(first)
    }

    /// Puts one that has been taken back to where it was.
    pub fn put_back(&mut self, first: Waiting) {
        self.bytes += first.len() + OVERHEAD;
        self.frames.push_front(first);
    }
}
