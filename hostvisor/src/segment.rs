//! Physically contiguous bytes of the frame pool: the currency of all I/O.
//!
//! Guests' descriptors become segments, drivers let the machine's devices read and write them, the switch
//! copies from segments to segments. Nothing in a segment is a Rust object, and its bytes may change at any
//! time: whoever owns the memory (a guest, a device) is not trusted to keep still.

/// Bytes in the frame pool.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Segment {
    /// Physical address of the first byte.
    pub pa: u64,
    /// Bytes.
    pub len: u32,
}

/// Bytes in all of `segments`.
#[must_use]
pub fn total(segments: &[Segment]) -> u64 {
    segments.iter().map(|s| u64::from(s.len)).sum()
}
