//! A short, deterministic run of every fuzz target.

use std::time::Duration;
use verify::fuzz::{TARGETS, smoke};

#[test]
fn no_target_fails_on_a_thousand_inputs_and_more() {
    for target in &TARGETS {
        let inputs = if target.name == "hypercalls" {
            1_000
        } else {
            20_000
        };
        let report = smoke(target, inputs, Duration::MAX, 1);
        assert_eq!(report.inputs, inputs, "{}", target.name);
    }
}
