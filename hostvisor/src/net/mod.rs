//! Network: switches, what joins them, and the machine's cards.
//!
//! Guests' own interfaces are virtio device models ([`crate::virtio::net`]); here is what they and the machine's cards
//! have in common. Frames come from guests and from outside: nothing in them, or in the headers in front of them, is
//! taken on trust.

pub mod backlog;
pub mod feature;
pub mod frame;
pub mod header;
pub mod machine;
pub mod nic;
pub mod offload;
pub mod switch;
pub mod table;

pub use header::NetHeader;

/// Largest frame, without [`NetHeader`]: what segmentation offload may hand over in one piece (virtio 1.2 §5.1.6.3.1).
pub const MAX_FRAME: usize = 65550;
