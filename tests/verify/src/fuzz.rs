//! Bytes into everything that reads an adversary's bytes. A target panics if something is wrong; the
//! fuzzers in `tests/fuzz` and the plain driver here ([`smoke`]) feed it.

mod blk;
mod inputs;
mod net;
mod targets;
mod virtio;

use crate::rng::Rng;
use std::time::{Duration, Instant};

pub use blk::blk;
pub use net::net;
pub use targets::{bundle, devices, hypercalls, traps, tree, vgic};
pub use virtio::virtio;

/// A target and inputs to start from.
pub struct Target {
    /// Its name, as `tests/fuzz` has it.
    pub name: &'static str,
    /// Takes one input.
    pub run: fn(&[u8]),
    /// Inputs that get past the first checks.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

/// All targets.
pub const TARGETS: [Target; 9] = [
    Target {
        name: "hypercalls",
        run: hypercalls,
        seeds: inputs::none,
    },
    Target {
        name: "traps",
        run: traps,
        seeds: inputs::none,
    },
    Target {
        name: "bundle",
        run: bundle,
        seeds: inputs::bundles,
    },
    Target {
        name: "tree",
        run: tree,
        seeds: inputs::trees,
    },
    Target {
        name: "vgic",
        run: vgic,
        seeds: inputs::none,
    },
    Target {
        name: "devices",
        run: devices,
        seeds: inputs::none,
    },
    Target {
        name: "virtio",
        run: virtio,
        seeds: inputs::none,
    },
    Target {
        name: "blk",
        run: blk,
        seeds: inputs::none,
    },
    Target {
        name: "net",
        run: net,
        seeds: inputs::none,
    },
];

/// What a driver did.
#[derive(Clone, Copy, Debug)]
pub struct Report {
    /// Inputs tried.
    pub inputs: u64,
    /// Wall-clock time.
    pub time: Duration,
}

/// Feeds a target `inputs` inputs, or as many as `time` allows, the same every time for the same seed:
/// random ones, and seeds of its own with random changes.
#[must_use]
pub fn smoke(target: &Target, inputs: u64, time: Duration, seed: u64) -> Report {
    let started = Instant::now();
    let seeds = (target.seeds)();
    let mut rng = Rng::Seed(seed);
    for input in &seeds {
        (target.run)(input);
    }
    let mut tried = 0;
    while tried < inputs && (tried % 256 != 0 || started.elapsed() < time) {
        tried += 1;
        let mut input = match seeds.len() {
            0 => Vec::new(),
            n => seeds[rng.below(n as u64) as usize].clone(),
        };
        inputs::change(&mut input, &mut rng);
        (target.run)(&input);
    }
    Report {
        inputs: tried,
        time: started.elapsed(),
    }
}
