use super::*;
use proptest::prelude::*;

const VM: u64 = 5;
const PAGE: u64 = 0x4_0123;

/// Every state, as entries of `VM` at `PAGE` where the state has an owner.
fn entries() -> [u64; 6] {
    [
        CORE,
        HOST,
        owned(State::HostShared, VM, 0),
        owned(State::VmPrivate, VM, PAGE),
        owned(State::VmShared, VM, PAGE),
        owned(State::Lent, VM, PAGE),
    ]
}

/// The whole transition table: for each operation the one state (or states) it starts from.
#[test]
fn only_the_transitions_of_the_design_exist() {
    let [core, host, run, private, shared, lent] = entries();
    let vm = VmId(VM as u16);
    type Steps<'a> = &'a [(u64, u64, u64)];
    let table: [(Operation, Steps<'_>); 9] = [
        (Operation::Grant, &[(core, host, MAP_HOST)]),
        (
            Operation::Donate(vm),
            &[(host, private, UNMAP_HOST | MAP_VM)],
        ),
        (Operation::Lend(vm), &[(host, lent, MAP_VM)]),
        (Operation::Unlend(vm), &[(lent, host, UNMAP_VM)]),
        (Operation::Share(vm), &[(private, shared, MAP_HOST)]),
        (Operation::Unshare(vm), &[(shared, private, UNMAP_HOST)]),
        (
            Operation::Reclaim(vm),
            &[(private, host, ZERO), (shared, host, ZERO), (lent, host, 0)],
        ),
        (Operation::TakeRunPage(vm), &[(host, run, 0)]),
        (Operation::ReleaseRunPage(vm), &[(run, host, 0)]),
    ];
    for (operation, steps) in table {
        for entry in entries() {
            let expected = steps.iter().find(|(from, ..)| *from == entry);
            let expected = expected.map(|(_, to, effects)| (Entry(*to), Effects(*effects)));
            let got = operation.decide(Entry(entry), PAGE);
            assert_eq!(
                got,
                expected.ok_or(Error::Denied),
                "{operation:?} of {entry:#x}"
            );
            assert_eq!(
                operation.decide(Entry(entry).busy(), PAGE),
                Err(Error::Busy)
            );
        }
    }
}

#[test]
fn the_hostvisor_reaches_what_the_design_says() {
    let [core, host, run, private, shared, lent] = entries();
    for entry in [host, run, shared, lent] {
        assert_eq!(Entry(entry).host_access(), Ok(()));
        assert_eq!(Entry(entry).busy().host_access(), Err(Error::Busy));
    }
    for entry in [core, private] {
        assert_eq!(Entry(entry).host_access(), Err(Error::Denied));
    }
}

#[test]
fn another_vm_and_another_ipa_are_refused() {
    let [_, _, run, private, shared, lent] = entries();
    for (entry, decide) in [
        (
            lent,
            decide_unlend as extern "C" fn(u64, u64, u64) -> Decision,
        ),
        (private, decide_share),
        (shared, decide_unshare),
    ] {
        assert_eq!(decide(entry, VM, PAGE).outcome & STATUS_MASK, 0);
        for (vm, page) in [
            (VM + 1, PAGE),
            (VM, PAGE + 1),
            (VM + (1 << 16), PAGE),
            (VM, PAGE + (1 << 24)),
        ] {
            assert_eq!(
                decide(entry, vm, page),
                Decision {
                    next: entry,
                    outcome: DENIED
                }
            );
        }
    }
    for entry in [private, shared, lent] {
        assert_eq!(decide_reclaim(entry, VM + 1).outcome, DENIED);
        assert_eq!(decide_reclaim(entry, VM + (1 << 16)).outcome, DENIED);
    }
    assert_eq!(decide_release_run_page(run, VM + 1).outcome, DENIED);
    assert_eq!(decide_donate(HOST, 1 << 16, PAGE).outcome, DENIED);
    assert_eq!(decide_donate(HOST, VM, 1 << 24).outcome, DENIED);
    assert_eq!(decide_donate(HOST, 1 << 16, 1 << 24).outcome, DENIED);
    assert_eq!(decide_take_run_page(HOST, 1 << 16).outcome, DENIED);
}

#[test]
fn entries_say_what_they_were_made_from() {
    assert_eq!(Entry(0), Entry::CORE, "memory never set up is the core's");
    let entry = Entry::owned(State::Lent, VmId(0xFFFF), Ipa(0xF_FFFF_F000));
    assert_eq!((entry.state(), entry.is_busy()), (Some(State::Lent), false));
    assert_eq!(entry.0, 0x00FF_FFFF_FFFF_0005);
    assert_eq!(entry.busy().settled(), entry);
    assert!(entry.busy().is_busy());
    assert_eq!(entry.busy().busy(), entry.busy());
    let states = entries().map(|word| Entry(word).state());
    let all = [
        State::Core,
        State::Host,
        State::HostShared,
        State::VmPrivate,
        State::VmShared,
        State::Lent,
    ];
    assert_eq!(states, all.map(Some));
    assert_eq!(Entry(6).state(), None);
}

/// Each effect is a bit of its own, and none is taken for a status.
#[test]
fn effects_are_told_apart() {
    let effects = [UNMAP_HOST, MAP_HOST, MAP_VM, UNMAP_VM, ZERO];
    let all = effects.into_iter().fold(0, |all, effect| all | effect);
    assert!(effects.into_iter().all(u64::is_power_of_two));
    assert_eq!(all.count_ones(), 5);
    assert_eq!(all & STATUS_MASK, 0);
}

proptest! {
    /// Total on any words; a refusal changes nothing and asks for nothing.
    #[test]
    fn refusals_leave_the_entry_alone(entry: u64, vm: u64, page: u64) {
        for decision in [
            decide_grant(entry),
            decide_donate(entry, vm, page),
            decide_lend(entry, vm, page),
            decide_unlend(entry, vm, page),
            decide_share(entry, vm, page),
            decide_unshare(entry, vm, page),
            decide_reclaim(entry, vm),
            decide_take_run_page(entry, vm),
            decide_release_run_page(entry, vm),
        ] {
            if decision.outcome & STATUS_MASK != 0 {
                prop_assert_eq!(decision.next, entry);
                prop_assert_eq!(decision.outcome & !STATUS_MASK, 0);
            } else {
                prop_assert_eq!(entry & BUSY, 0);
                prop_assert_eq!(decision.next & BUSY, 0);
            }
        }
    }

    /// Whoever loses a private or shared frame loses it zeroed; whoever gets one alone, gets it after
    /// the hostvisor lost it.
    #[test]
    fn no_frame_changes_hands_without_its_effect(entry: u64, low in 0_u64..64, vm in 0_u64..4, page in 0_u64..4) {
        for entry in [entry, low | vm << VM_SHIFT | page << IPA_PAGE_SHIFT] {
            let from = Entry(entry).state();
            for operation in [Operation::Donate, Operation::Lend, Operation::Unlend, Operation::Share,
                Operation::Unshare, Operation::Reclaim, Operation::TakeRunPage, Operation::ReleaseRunPage] {
                let Ok((next, effects)) = operation(VmId(vm as u16)).decide(Entry(entry), page) else { continue };
                let of_vm = |s| matches!(s, Some(State::VmPrivate | State::VmShared));
                if of_vm(from) && !of_vm(next.state()) {
                    prop_assert!(effects.has(ZERO));
                }
                if Entry(entry).host_access().is_ok() && next.host_access().is_err() {
                    prop_assert!(effects.has(UNMAP_HOST));
                }
                prop_assert!(from != Some(State::Core) && next.state() != Some(State::Core));
            }
        }
    }
}
