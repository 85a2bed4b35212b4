//! Row 4: alignment and size, on every call that takes a range.

use super::Attack;
use crate::guest::{self, Do};
use crate::verdict::{Outcome, given, refused, require};
use crate::vm::{SECRET_IPA, Vm, whole};
use crate::{access, call, frames};
use abi::hypercall::{CoreInfo, MAX_FRAMES_PER_CALL};
use abi::{Error, HostCall, PAGE_SIZE};

pub(crate) const ATTACKS: &[Attack] = &[
    ("range-ipa-unaligned", ipa_unaligned),
    ("range-empty", empty),
    ("range-wraps", wraps),
    ("range-beyond-ipa-space", beyond_ipa),
    ("range-beyond-ram", beyond_ram),
    ("range-huge", huge),
    ("block-pa-unaligned", pa_unaligned),
    ("block-neighbours", neighbours),
    ("block-split", split),
];

const NEW: u64 = guest::RAM + (4 << 20);
const BLOCK: u64 = 2 << 20;

/// (ipa, pfn, count) refused by donate, lend and unmap alike with `error`, and nothing changed.
fn refused_everywhere(ranges: &[(u64, u64, u64)], errors: &[Error]) -> Outcome {
    let vm = Vm::running(true, 1)?;
    let open = Vm::running(false, 1)?;
    let free = call::info(CoreInfo::PoolFree);
    for &(ipa, pfn, count) in ranges {
        let answers = [
            call::host(HostCall::MemDonate, &[vm.handle, ipa, pfn, count]),
            call::host(HostCall::MemLend, &[open.handle, ipa, pfn, count]),
            call::host(HostCall::MemUnmap, &[open.handle, ipa, count]),
        ];
        for answer in answers {
            let fits = matches!(answer, Err(error) if errors.contains(&error));
            require!(
                fits,
                "IPA {ipa:#x}, frame {pfn:#x}, count {count:#x}: {answers:x?}"
            );
        }
    }
    let after = call::info(CoreInfo::PoolFree);
    require!(after == free, "{free} table frames were free, {after} are");
    given!(
        open.first().command(Do::Count, &[7])? == 7,
        "the open VM is broken"
    );
    refused!("{} ranges, three calls each", ranges.len())
}

fn ipa_unaligned() -> Outcome {
    let pfn = frames::take(4) / PAGE_SIZE;
    let ranges = [1, 8, 0x800, 0xfff].map(|offset| (NEW + offset, pfn, 1));
    refused_everywhere(&ranges, &[Error::Invalid])
}

fn empty() -> Outcome {
    let pfn = frames::take(1) / PAGE_SIZE;
    refused_everywhere(
        &[(NEW, pfn, 0), (0, 0, 0), (SECRET_IPA, pfn, 0)],
        &[Error::Invalid],
    )
}

fn wraps() -> Outcome {
    let pfn = frames::take(1) / PAGE_SIZE;
    let top = !(PAGE_SIZE - 1);
    let ranges = [
        (top, pfn, 1),
        (top, pfn, 2),
        (NEW, pfn, u64::MAX),
        (NEW, pfn, u64::MAX >> 12),
        (NEW, pfn, 1 << 52),
        (NEW, pfn, (1 << 52) - NEW / PAGE_SIZE + 1),
        (top, u64::MAX, u64::MAX),
    ];
    let how = refused_everywhere(&ranges, &[Error::Invalid])?;
    // The frame number alone: unmap takes none, and reclaim does.
    let vm = Vm::running(true, 1)?;
    for (pfn, count) in [
        (u64::MAX, 1),
        (u64::MAX, 2),
        (1 << 52, 1),
        (1 << 36, 1),
        (u64::MAX - 3, 8),
    ] {
        let answer = call::host(HostCall::MemDonate, &[vm.handle, NEW, pfn, count]);
        require!(
            answer == Err(Error::Invalid),
            "frame {pfn:#x}, count {count}: {answer:?}"
        );
    }
    vm.kill()?;
    for (pfn, count) in [
        (u64::MAX, 1),
        (u64::MAX, 2),
        (1 << 36, 1),
        (pfn, u64::MAX),
        (pfn, 0),
    ] {
        let answer = call::host(HostCall::MemReclaim, &[vm.handle, pfn, count]);
        require!(
            answer == Err(Error::Invalid),
            "reclaim of {pfn:#x}, count {count:#x}: {answer:?}"
        );
    }
    Ok(how)
}

fn beyond_ipa() -> Outcome {
    let pfn = frames::take(4) / PAGE_SIZE;
    let limit = 1 << call::info(CoreInfo::IpaBits);
    let ranges = [
        (limit, pfn, 1),
        (limit - PAGE_SIZE, pfn, 2),
        (limit * 2, pfn, 1),
        (limit << 3, pfn, 1),
        (limit << 11, pfn, 1),
    ];
    let how = refused_everywhere(&ranges, &[Error::Invalid])?;
    let mut vm = Vm::create(true, 1)?;
    let last = vm.give(limit - PAGE_SIZE, pfn * PAGE_SIZE, 1);
    given!(last == Ok(()), "the last page of the IPA space: {last:?}");
    Ok(how)
}

/// A range that begins in RAM and goes on behind it.
fn beyond_ram() -> Outcome {
    let end = frames::ram_end();
    let mut vm = Vm::create(true, 1)?;
    let start = end - PAGE_SIZE;
    if access::read(start).is_err() {
        let answer = call::host(HostCall::MemDonate, &[vm.handle, NEW, start / PAGE_SIZE, 2]);
        require!(
            answer == Err(Error::Denied),
            "core memory and beyond: {answer:?}"
        );
        return refused!("Denied: the last frame is the core's");
    }
    let done = call::host(HostCall::MemDonate, &[vm.handle, NEW, start / PAGE_SIZE, 4])?;
    vm.note(start, done);
    require!(done == 1, "{done} frames of which RAM has 1");
    refused!("stopped at the end of RAM")
}

/// A call's time is bounded: no more than the most it may do.
fn huge() -> Outcome {
    let start = frames::take_blocks(4);
    let mut vm = Vm::create(true, 1)?;
    let done = call::host(
        HostCall::MemDonate,
        &[vm.handle, NEW, start / PAGE_SIZE, 1024],
    )?;
    vm.note(start, done);
    require!(done <= MAX_FRAMES_PER_CALL, "{done} frames in one call");
    let behind = access::read(start + done * PAGE_SIZE);
    require!(behind.is_ok(), "a frame more than reported is gone");
    refused!("{done} frames, the rest untouched")
}

/// 512 frames at an aligned IPA, but not at an aligned physical address: a block there would map frames
/// that belong to others.
fn pa_unaligned() -> Outcome {
    let start = frames::take_blocks(3) + 5 * PAGE_SIZE;
    let before = start - 5 * PAGE_SIZE;
    access::fill(before, 5 * PAGE_SIZE, 0xb4b4);
    for n in 0..512 {
        access::set_word(start + n * PAGE_SIZE, 0x1000 + n);
    }
    access::set_word(start + BLOCK, 0xafaf);
    let mut vm = Vm::running(true, 1)?;
    vm.give(NEW, start, 512)?;
    let guest = vm.first();
    for n in [0, 1, 4, 5, 255, 506, 507, 511] {
        let seen = guest.peek(NEW + n * PAGE_SIZE)?;
        require!(seen == 0x1000 + n, "page {n} of the guest holds {seen:#x}");
        guest.poke(NEW + n * PAGE_SIZE, 0)?;
    }
    for at in (before..start).step_by(8) {
        require!(access::word(at) == 0xb4b4, "the guest wrote {at:#x}");
    }
    require!(
        access::word(start + BLOCK) == 0xafaf,
        "the guest wrote behind its memory"
    );
    refused!("512 pages of their own")
}

/// Exactly one aligned block: the frames on both sides stay the host's, those inside are gone.
fn neighbours() -> Outcome {
    let start = frames::take_blocks(3) + BLOCK;
    access::set_word(start - 8, 1);
    access::set_word(start + BLOCK, 2);
    let mut vm = Vm::running(true, 1)?;
    vm.give(NEW, start, 512)?;
    for at in (start..start + BLOCK).step_by(PAGE_SIZE as usize) {
        require!(
            access::read(at).is_err(),
            "{at:#x} of the block is readable"
        );
    }
    require!(
        access::read(start - 8) == Ok(1),
        "the frame in front is gone"
    );
    require!(
        access::read(start + BLOCK) == Ok(2),
        "the frame behind is gone"
    );
    vm.first().poke(NEW + BLOCK - 8, 3)?;
    given!(
        vm.first().peek(NEW + BLOCK - 8)? == 3,
        "the guest does not have the block"
    );
    refused!("512 frames, no more and no less")
}

/// One frame out of a block that is mapped as a whole: only that one goes.
fn split() -> Outcome {
    let start = frames::take_blocks(1);
    access::fill(start, BLOCK, 0x51);
    let mut open = Vm::running(false, 1)?;
    open.give(NEW, start, 512)?;
    let guest = open.first();
    given!(
        guest.peek(NEW + 9 * PAGE_SIZE)? == 0x51,
        "the open VM has no block"
    );
    let done = whole(HostCall::MemUnmap, [open.handle, NEW + 9 * PAGE_SIZE, 0], 1)?;
    given!(done == 1, "unmapped {done}");
    for n in [0, 8, 10, 511] {
        let seen = guest.peek(NEW + n * PAGE_SIZE)?;
        require!(seen == 0x51, "page {n} holds {seen:#x}");
    }
    let seen = guest.peek(NEW + 9 * PAGE_SIZE);
    require!(seen.is_err(), "the unmapped page reads {seen:x?}");
    refused!("only that page is gone")
}
