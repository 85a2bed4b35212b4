//! Every wrong argument of every hypercall gets its documented error and changes nothing; and proof that a
//! call which did otherwise would be seen.

use abi::{Error, HostCall};
use verify::refusals::{Answers, Seeded, walk};

const WALKS: u64 = 60;
const STEPS: u64 = 500;

#[test]
fn every_wrong_argument_gets_its_documented_error_and_changes_nothing() {
    let mut answers = Answers::new();
    for seed in 0..WALKS {
        if let Err(what) = walk(seed, STEPS, Seeded::Nothing, &mut answers) {
            panic!("{what}");
        }
    }
    // Every error of every call came up; each call succeeded as well.
    use Error::{BadState, Busy, Denied, Elsewhere, Exists, Invalid, NoMemory, NotFound};
    let documented: [(HostCall, &[Error]); 13] = [
        (HostCall::CoreInfo, &[Invalid]),
        (HostCall::VmCreate, &[Invalid, NoMemory]),
        (HostCall::VmSetBoot, &[NotFound, BadState, Invalid]),
        (HostCall::VmStart, &[NotFound, BadState, Busy]),
        (HostCall::VmDestroy, &[NotFound, Busy]),
        (
            HostCall::MemDonate,
            &[NotFound, BadState, Denied, Invalid, Exists, Busy, NoMemory],
        ),
        (
            HostCall::MemLend,
            &[NotFound, BadState, Denied, Invalid, Exists, Busy],
        ),
        (
            HostCall::MemUnmap,
            &[NotFound, BadState, Invalid, Denied, Busy],
        ),
        (
            HostCall::MemReclaim,
            &[NotFound, BadState, Invalid, Denied, Busy],
        ),
        (
            HostCall::VcpuCreate,
            &[NotFound, BadState, Invalid, Exists, NoMemory, Denied, Busy],
        ),
        (
            HostCall::VcpuRun,
            &[NotFound, Busy, BadState, Elsewhere, Invalid, Denied],
        ),
        (HostCall::VcpuPut, &[NotFound, Busy, Elsewhere]),
        (HostCall::VcpuStat, &[NotFound, Invalid]),
    ];
    let mut missing = Vec::new();
    for (call, errors) in documented {
        let codes = errors.iter().map(|e| Some(e.code())).chain([None]);
        missing.extend(
            codes
                .filter(|code| !answers.contains_key(&(Some(call as u64), *code)))
                .map(|code| (call, code)),
        );
    }
    assert!(
        missing.is_empty(),
        "never answered: {missing:?}\n{answers:?}"
    );
    assert!(answers.contains_key(&(None, Some(Error::NotSupported.code()))));
}

#[test]
fn a_refused_call_that_changes_something_or_answers_otherwise_is_seen() {
    for seeded in [
        Seeded::Memory,
        Seeded::Frame,
        Seeded::Register,
        Seeded::Error,
    ] {
        let seen = (0..10).find_map(|seed| walk(seed, 100, seeded, &mut Answers::new()).err());
        assert!(seen.is_some(), "{seeded:?}");
    }
}
