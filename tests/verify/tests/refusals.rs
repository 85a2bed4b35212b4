//! Every wrong argument of every hypercall gets its documented error and changes nothing; and proof that a
//! call which did otherwise would be seen.

use abi::{Error, HostCall};
use verify::refusals::{Answers, Seeded, guest, smc, walk};

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
            &[NotFound, BadState, Denied, Invalid, Exists, Busy, NoMemory],
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

#[test]
fn every_wrong_call_of_a_guest_gets_its_documented_answer_and_changes_nothing() {
    const NOT_SUPPORTED: i64 = -1;
    const INVALID_PARAMETERS: i64 = -2;
    const INVALID_PARAMETER: i64 = -3;
    const ALREADY_ON: i64 = -4;
    const ON_PENDING: i64 = -5;
    const INVALID_ADDRESS: i64 = -9;
    let mut answers = guest::Answers::new();
    for seed in 0..WALKS {
        if let Err(what) = guest::walk(seed, STEPS, guest::Seeded::Nothing, &mut answers) {
            panic!("{what}");
        }
    }
    // Every error came up, and each call succeeded as well. In an open VM the last six are not there.
    let cpu_on = [INVALID_PARAMETERS, INVALID_ADDRESS, ALREADY_ON, ON_PENDING];
    let documented: [(u32, &[i64]); 19] = [
        (0x8400_0000, &[]),
        (0x8400_0001, &[]),
        (0x8400_0002, &[]),
        (0x8400_0003, &cpu_on),
        (0xC400_0003, &cpu_on),
        (0x8400_0004, &[INVALID_PARAMETERS]),
        (0xC400_0004, &[INVALID_PARAMETERS]),
        (0x8400_0006, &[]),
        (0x8400_0008, &[]),
        (0x8400_0009, &[]),
        (0x8400_000A, &[NOT_SUPPORTED]),
        (0x8000_0000, &[]),
        (0x8000_0001, &[NOT_SUPPORTED]),
        (0x8600_FF01, &[NOT_SUPPORTED]),
        (0x8600_0000, &[NOT_SUPPORTED]),
        (0xC600_0002, &[INVALID_PARAMETER, NOT_SUPPORTED]),
        (0xC600_0003, &[INVALID_PARAMETER, NOT_SUPPORTED]),
        (0xC600_0004, &[INVALID_PARAMETER, NOT_SUPPORTED]),
        (0xC600_0007, &[INVALID_PARAMETER, NOT_SUPPORTED]),
    ];
    let mut missing = Vec::new();
    for (function, errors) in documented {
        let codes = errors.iter().map(|code| Some(*code)).chain([None]);
        missing.extend(
            codes
                .filter(|code| !answers.contains_key(&(function, *code)))
                .map(|code| format!("{function:#x}: {code:?}")),
        );
    }
    assert!(
        missing.is_empty(),
        "never answered: {missing:?}\n{answers:x?}"
    );
    let unknown = answers
        .keys()
        .filter(|(function, _)| documented.iter().all(|(known, _)| function != known));
    assert!(unknown.count() > 100);
}

#[test]
fn a_guests_refused_call_that_changes_something_or_answers_otherwise_is_seen() {
    for seeded in [guest::Seeded::Memory, guest::Seeded::Answer] {
        let walk = |seed| guest::walk(seed, 100, seeded, &mut guest::Answers::new()).err();
        assert!((0..10).find_map(walk).is_some(), "{seeded:?}");
    }
}

#[test]
fn every_wrong_smc_of_the_hostvisor_gets_its_documented_answer_and_changes_nothing() {
    let mut answers = Answers::new();
    for seed in 0..WALKS {
        if let Err(what) = smc::walk(seed, STEPS, guest::Seeded::Nothing, &mut answers) {
            panic!("{what}");
        }
    }
    let documented: [(u64, &[i64]); 9] = [
        (0x8400_0000, &[]),
        (0x8400_0002, &[-3, -6]),
        (0xC400_0003, &[-2, -3, -4, -5, -6, -9]),
        (0xC400_0004, &[-2]),
        (0x8400_0006, &[]),
        (0x8400_0008, &[-3, -6]),
        (0x8400_0009, &[-3, -6]),
        (0x8400_000A, &[-1]),
        (0x8000_0000, &[]),
    ];
    for (function, errors) in documented {
        for code in errors.iter().map(|code| Some(*code)).chain([None]) {
            let key = (Some(function), code);
            assert!(answers.contains_key(&key), "{key:x?} never came up");
        }
    }
    let unknown = |function| documented.iter().all(|(known, _)| Some(*known) != function);
    let unknown = answers.keys().filter(|(function, _)| unknown(*function));
    assert!(unknown.count() > 100);
}

#[test]
fn a_refused_smc_that_changes_something_or_answers_otherwise_is_seen() {
    for seeded in [guest::Seeded::Memory, guest::Seeded::Answer] {
        let walk = |seed| smc::walk(seed, 100, seeded, &mut Answers::new()).err();
        assert!((0..10).find_map(walk).is_some(), "{seeded:?}");
    }
}
