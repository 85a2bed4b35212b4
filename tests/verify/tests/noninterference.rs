//! A part of `make noninterference`, and proof that it can fail.

use verify::machine::Fault;
use verify::noninterference::{Limits, run};

fn limits(sequences: u64, fault: Fault) -> Limits {
    Limits {
        sequences,
        threads: 2,
        seed: 1 << 40,
        fault,
        verbose: false,
    }
}

#[test]
fn nobody_sees_a_protected_vms_secret() {
    let report = run(limits(10_000, Fault::None));
    assert_eq!(report.difference, None);
    // The sequences do something.
    assert!(report.succeeded > 5 * report.sequences, "{report:?}");
    assert!(report.entries > 2 * report.sequences, "{report:?}");
}

#[test]
fn every_leak_is_seen() {
    for (fault, words) in [
        (Fault::SkipZero, "reads a difference"),
        (Fault::ZeroShort, "word 511"),
        (Fault::KeepEl1, "registers"),
        (Fault::OpenFp, "registers"),
        (Fault::LeakGp, "reads a difference"),
    ] {
        let seen = run(limits(10_000, fault)).difference;
        assert!(
            seen.as_ref().is_some_and(|text| text.contains(words)),
            "{fault:?}: {seen:?}"
        );
    }
}
