//! Network: what a frame is, and who takes one.

pub mod frame;
pub mod header;
pub mod offload;
pub mod switch;
pub mod table;

use crate::segment::Segment;
pub use header::NetHeader;

/// Largest frame, without [`NetHeader`]: what segmentation offload may hand over in one piece (virtio 1.2 §5.1.6.3.1).
pub const MAX_FRAME: usize = 65550;

/// Takes received frames.
pub trait Sink: Send + Sync {
    /// An Ethernet frame, without its checksum, in segments that are the caller's again afterwards.
    ///
    /// Called with no lock held that the receiver could want, on any CPU.
    fn receive(&self, header: &NetHeader, frame: &[Segment]);
}

/// There is no room for a frame now. It is dropped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Full;
