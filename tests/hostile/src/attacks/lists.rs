//! Row 16: what the hostvisor puts into list registers.

use super::Attack;
use crate::guest::{Do, Guest, Stop};
use crate::verdict::{Failure, Outcome, given, refused, require};
use crate::vm::Vm;
use crate::{call, gic};
use abi::Error;
use abi::hypercall::CoreInfo;
use abi::run::{self, LR_ACTIVE, LR_EOI, LR_GROUP1, LR_HW, LR_PENDING};

pub(crate) const ATTACKS: &[Attack] = &[
    ("list-reserved-bits", reserved),
    ("list-foreign-interrupt", foreign),
    ("list-hw-pending-active", hw_both),
    ("list-special-intid", special),
    ("list-duplicates", duplicates),
    ("list-count", count),
    ("list-control-bits", control),
    ("list-flood", flood),
    ("list-maintenance", maintenance),
];

const PLAIN: u64 = LR_PENDING | LR_GROUP1 | 40;

fn vtimer() -> u64 {
    call::info(CoreInfo::VtimerIntid)
}

/// Tries to enter with `words` as list registers.
fn load(guest: Guest, words: &[u64]) -> Result<(), Error> {
    for (n, word) in words.iter().enumerate() {
        guest.set_page_word(run::LIST_REGISTERS + n, *word);
    }
    guest.set_page_word(run::LR_COUNT, words.len() as u64);
    let outcome = guest.step().map(|_| ());
    guest.set_page_word(run::LR_COUNT, 0);
    outcome
}

/// A VM that takes a plain interrupt, as it should.
fn receptive() -> Result<Vm, Failure> {
    let vm = Vm::running(true, 1)?;
    let guest = vm.first();
    let nothing = guest.command(Do::Acknowledge, &[])?;
    given!(nothing == 1023, "interrupt {nothing} out of nowhere");
    guest.set_page_word(run::LIST_REGISTERS, PLAIN);
    guest.set_page_word(run::LR_COUNT, 1);
    let taken = guest.command(Do::Acknowledge, &[])?;
    given!(taken == 40, "the guest acknowledged {taken}, not 40");
    guest.set_page_word(run::LR_COUNT, 0);
    Ok(vm)
}

/// None of `words` gets in; the guest takes nothing.
fn none_gets_in(words: &[u64], errors: &[Error]) -> Outcome {
    let vm = receptive()?;
    let guest = vm.first();
    for word in words {
        let answer = load(guest, &[*word]);
        let fits = matches!(answer, Err(error) if errors.contains(&error));
        require!(fits, "{word:#x}: {answer:?}");
        // The same behind a good one.
        let answer = load(guest, &[PLAIN + 1, *word]);
        require!(
            matches!(answer, Err(error) if errors.contains(&error)),
            "second, {word:#x}: {answer:?}"
        );
    }
    let taken = guest.command(Do::Acknowledge, &[])?;
    require!(taken == 1023, "the guest took {taken}");
    refused!("{} contents, {errors:?}", words.len())
}

fn reserved() -> Outcome {
    let mut words = [0; 23];
    // Bits 40:32 and 44:42 of a software interrupt, 47:45 and 59:56 of any.
    let bits = (32..41).chain(42..48).chain(56..60);
    let mut n = 0;
    for bit in bits {
        words[n] = PLAIN | 1 << bit;
        n += 1;
    }
    for bit in [42, 43, 45, 47] {
        words[n] = LR_PENDING | LR_GROUP1 | LR_HW | vtimer() << 32 | vtimer() | 1 << bit;
        n += 1;
    }
    none_gets_in(&words[..n], &[Error::Invalid])
}

/// HW for a physical interrupt of the machine's: the guest would deactivate it.
fn foreign() -> Outcome {
    let hw = LR_PENDING | LR_GROUP1 | LR_HW;
    let v = vtimer();
    let words = [
        hw | 33 << 32 | 33,
        hw | 33 << 32 | v,
        hw | v << 32 | 33,
        hw | 25 << 32 | 25,
        hw | 26 << 32 | v,
        hw | 30 << 32 | 30,
        hw | 1023 << 32 | v,
        hw | v,
        LR_ACTIVE | LR_HW | LR_GROUP1 | 33 << 32 | 33,
    ];
    none_gets_in(&words, &[Error::Denied])
}

fn hw_both() -> Outcome {
    let v = vtimer();
    let word = LR_PENDING | LR_ACTIVE | LR_GROUP1 | LR_HW | v << 32 | v;
    none_gets_in(&[word], &[Error::Invalid])
}

/// Spurious INTIDs, LPIs, and what is beyond.
fn special() -> Outcome {
    // On a GICv2 1024 is SGI 0 from CPU 1; nothing but an SGI has a sender.
    let beyond = if gic::version() == 2 { 1024 + 16 } else { 1024 };
    let words = [
        1020,
        1021,
        1022,
        1023,
        beyond,
        8192,
        0xffff,
        0xff_ffff,
        0xffff_ffff,
    ]
    .map(|intid| LR_PENDING | LR_GROUP1 | intid);
    none_gets_in(&words, &[Error::Invalid])
}

/// One interrupt in two list registers is UNPREDICTABLE.
fn duplicates() -> Outcome {
    let vm = receptive()?;
    let guest = vm.first();
    for pair in [
        [PLAIN, PLAIN],
        [PLAIN, LR_ACTIVE | LR_GROUP1 | 40],
        [PLAIN, PLAIN | LR_EOI],
        [LR_PENDING | 40, PLAIN | 0x80 << 48],
    ] {
        let answer = load(guest, &pair);
        require!(answer == Err(Error::Invalid), "{pair:x?}: {answer:?}");
    }
    // The very same word in two that are not in use is nothing.
    given!(
        load(guest, &[40, 40]).is_ok(),
        "inactive list registers are refused"
    );
    refused!("Invalid")
}

fn count() -> Outcome {
    let vm = receptive()?;
    let guest = vm.first();
    let most = call::info(CoreInfo::ListRegisters);
    for count in [most + 1, 16, 17, 512, 1 << 32, 1 << 63, u64::MAX] {
        if count <= most {
            continue;
        }
        guest.set_page_word(run::LR_COUNT, count);
        let answer = guest.step();
        require!(
            answer == Err(Error::Invalid),
            "{count:#x} list registers: {answer:x?}"
        );
    }
    guest.set_page_word(run::LR_COUNT, 0);
    refused!("Invalid beyond {most}")
}

/// ICH_HCR_EL2 with every bit set: traps of the guest's own interface, deactivation by a count.
fn control() -> Outcome {
    let vm = receptive()?;
    let guest = vm.first();
    guest.set_page_word(run::ICH_HCR, !run::ICH_HCR_ALLOWED);
    guest.set_page_word(run::LIST_REGISTERS, PLAIN);
    guest.set_page_word(run::LR_COUNT, 1);
    let taken = guest.command(Do::Acknowledge, &[]);
    guest.set_page_word(run::ICH_HCR, 0);
    guest.set_page_word(run::LR_COUNT, 0);
    let faults = guest.command(Do::Faults, &[])?;
    require!(faults == 0, "the guest's interface traps: {faults:#x}");
    require!(taken == Ok(40), "the guest took {taken:x?}");
    refused!("no effect on the guest's interface")
}

/// All list registers at once, all priorities.
fn flood() -> Outcome {
    let vm = receptive()?;
    let guest = vm.first();
    let most = call::info(CoreInfo::ListRegisters);
    for round in 0..20 {
        for n in 0..most {
            let word = LR_PENDING | LR_GROUP1 | (n * 16 + round) << 48 & 0xff << 48 | (64 + n);
            guest.set_page_word(run::LIST_REGISTERS + n as usize, word);
        }
        guest.set_page_word(run::LR_COUNT, most);
        for _ in 0..most {
            let taken = guest.command(Do::Acknowledge, &[])?;
            require!((64..64 + most).contains(&taken), "the guest took {taken}");
        }
        let rest = guest.command(Do::Acknowledge, &[])?;
        require!(rest == 1023, "{rest} is left over");
    }
    refused!("{most} interrupts taken, 20 times")
}

/// Maintenance interrupts asked for and never served.
fn maintenance() -> Outcome {
    let vm = receptive()?;
    let guest = vm.first();
    guest.set_page_word(run::ICH_HCR, run::ICH_HCR_ALLOWED);
    for _ in 0..50 {
        match guest.step() {
            Ok(_) => {}
            other => require!(false, "{other:x?}"),
        }
    }
    guest.set_page_word(run::ICH_HCR, 0);
    let counted: Result<u64, Stop> = guest.command(Do::Count, &[4]);
    require!(counted == Ok(4), "{counted:x?}");
    refused!("the VM goes on")
}
