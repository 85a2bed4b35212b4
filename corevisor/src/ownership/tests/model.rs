//! Random sequences of everything the hostvisor and two VMs can ask for.

use super::*;
use std::collections::BTreeMap;

/// A frame's owner, kept apart from the frame table and in another form.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Owner {
    Core,
    Host,
    RunPage(usize),
    Private(usize, u64),
    Shared(usize, u64),
    Lent(usize, u64),
}

#[derive(Clone, Copy, Debug)]
enum Op {
    Donate {
        vm: usize,
        page: u64,
        pfn: u64,
        count: u64,
    },
    Lend {
        vm: usize,
        page: u64,
        pfn: u64,
        count: u64,
    },
    Unlend {
        vm: usize,
        page: u64,
        count: u64,
    },
    Share {
        vm: usize,
        page: u64,
    },
    Unshare {
        vm: usize,
        page: u64,
    },
    TakeRunPage {
        vm: usize,
        pfn: u64,
    },
    ReleaseRunPage {
        vm: usize,
        pfn: u64,
    },
    ReclaimForeign {
        vm: usize,
        pfn: u64,
    },
    HostTouch {
        pfn: u64,
        write: u64,
    },
    Destroy {
        vm: usize,
        budget: u64,
    },
}

/// Frames of RAM near borders of blocks and regions, and some that are not RAM.
fn pfn() -> impl Strategy<Value = u64> + Clone {
    let near = prop_oneof![3 => Just(0_u64), 3 => 0_u64..6, 1 => 506_u64..512];
    let base = prop_oneof![
        2 => Just(A + 256), 4 => Just(A + 512), 4 => Just(A + 1024), 2 => Just(A + 1536),
        1 => Just(A), 1 => Just(A + 2040), 1 => Just(B), 2 => Just(0x8_0200), 1 => Just(0x8_0400)
    ];
    (base, near).prop_map(|(base, near)| base + near)
}

fn count() -> impl Strategy<Value = u64> {
    prop_oneof![3 => Just(1_u64), 2 => 1_u64..8, 3 => Just(512), 1 => 500_u64..600, 1 => 1000_u64..1100]
}

/// A VM's page for a frame: mostly at the same place within a block.
fn page(pfn: u64, kind: u8) -> u64 {
    match kind {
        0..=5 => pfn,
        6 => pfn + 0x4_0000 - (pfn & 511),
        7 => pfn + 3,
        8 => pfn - 0x200,
        _ => 0xFF_FE00 + (pfn & 511),
    }
}

fn op() -> impl Strategy<Value = Op> {
    let vm = 0_usize..2;
    let place = (pfn(), 0_u8..10).prop_map(|(pfn, kind)| (page(pfn, kind), pfn));
    let at = (pfn(), 0_u8..10).prop_map(|(pfn, kind)| page(pfn, kind));
    prop_oneof![
        5 => (vm.clone(), place.clone(), count()).prop_map(|(vm, (page, pfn), count)| Op::Donate { vm, page, pfn, count }),
        5 => (vm.clone(), place, count()).prop_map(|(vm, (page, pfn), count)| Op::Lend { vm, page, pfn, count }),
        4 => (vm.clone(), at.clone(), count()).prop_map(|(vm, page, count)| Op::Unlend { vm, page, count }),
        4 => (vm.clone(), at.clone()).prop_map(|(vm, page)| Op::Share { vm, page }),
        3 => (vm.clone(), at).prop_map(|(vm, page)| Op::Unshare { vm, page }),
        1 => (vm.clone(), pfn()).prop_map(|(vm, pfn)| Op::TakeRunPage { vm, pfn }),
        1 => (vm.clone(), pfn()).prop_map(|(vm, pfn)| Op::ReleaseRunPage { vm, pfn }),
        1 => (vm.clone(), pfn()).prop_map(|(vm, pfn)| Op::ReclaimForeign { vm, pfn }),
        6 => (pfn(), 0_u64..2).prop_map(|(pfn, write)| Op::HostTouch { pfn, write }),
        1 => (vm, 1_u64..6).prop_map(|(vm, budget)| Op::Destroy { vm, budget }),
    ]
}

struct World<'a> {
    setup: &'a Setup,
    own: Ownership<'a, Machine>,
    host: Stage2Regs,
    pool: u64,
    vms: [Stage2; 2],
    owners: BTreeMap<u64, Owner>,
}

const IDS: [VmId; 2] = [VmId(0x101), VmId(0xFFFF)];

type Outcome = Result<u64, Error>;

impl<'a> World<'a> {
    fn new(setup: &'a Setup, pool: u64) -> Self {
        let own = setup.boot(CORE_FRAMES, pool, &RESTRICTED, 4);
        let host = own.host_regs();
        setup.machine.watch(host);
        let vms = [vm(setup, &own, 1), vm(setup, &own, 2)];
        let owners = RAM
            .iter()
            .flat_map(|r| r.base.0..r.base.0 + r.frames)
            .map(|pfn| {
                (
                    pfn,
                    if pfn < A + CORE_FRAMES {
                        Owner::Core
                    } else {
                        Owner::Host
                    },
                )
            });
        Self {
            setup,
            host,
            pool,
            vms,
            owners: owners.collect(),
            own,
        }
    }

    /// The frame that the model has at a VM's page.
    fn frame_at(&self, vm: usize, page: u64) -> Option<u64> {
        use Owner::{Lent, Private, Shared};
        let here = [Private(vm, page), Shared(vm, page), Lent(vm, page)];
        self.owners
            .iter()
            .find(|(_, owner)| here.contains(owner))
            .map(|(pfn, _)| *pfn)
    }

    /// What the model expects of giving frames one by one.
    fn expect_give(&self, vm: usize, page: u64, pfn: u64, count: u64) -> Outcome {
        if page + count > 1 << 24 {
            return Err(Error::Invalid);
        }
        let taken: Vec<u64> = self.pages(vm).into_keys().collect();
        one_by_one(count, |n| {
            if taken.binary_search(&(page + n)).is_ok() {
                Err(Error::Exists)
            } else if self.owners.get(&(pfn + n)) != Some(&Owner::Host) {
                Err(Error::Denied)
            } else {
                Ok(())
            }
        })
    }

    /// The model's memory of a VM.
    fn pages(&self, vm: usize) -> BTreeMap<u64, u64> {
        let page = |owner: &Owner| match *owner {
            Owner::Private(v, p) | Owner::Shared(v, p) | Owner::Lent(v, p) if v == vm => Some(p),
            _ => None,
        };
        self.owners
            .iter()
            .filter_map(|(pfn, o)| Some((page(o)?, *pfn)))
            .collect()
    }

    fn run(&mut self, op: Op) {
        match op {
            Op::Donate {
                vm,
                page,
                pfn,
                count,
            } => {
                let expected = self.expect_give(vm, page, pfn, count);
                let will_move = expected.unwrap_or(0);
                self.setup
                    .machine
                    .set_exclusive(pfn << 12..(pfn + will_move) << 12);
                let table = &mut self.vms[vm];
                let got = self.own.donate(table, IDS[vm], ipa(page), Pfn(pfn), count);
                self.setup.machine.set_exclusive(0..0);
                for n in 0..self.agree(expected, got) {
                    self.owners.insert(pfn + n, Owner::Private(vm, page + n));
                    self.fill(pfn + n, 0x5EC2E7);
                }
            }
            Op::Lend {
                vm,
                page,
                pfn,
                count,
            } => {
                let expected = self.expect_give(vm, page, pfn, count);
                let table = &mut self.vms[vm];
                let got = self.own.lend(table, IDS[vm], ipa(page), Pfn(pfn), count);
                for n in 0..self.agree(expected, got) {
                    self.owners.insert(pfn + n, Owner::Lent(vm, page + n));
                    self.fill(pfn + n, 0x1E27);
                }
            }
            Op::Unlend { vm, page, count } => {
                let pages = self.pages(vm);
                let frame = |n| {
                    let pfn = pages.get(&(page + n))?;
                    matches!(self.owners[pfn], Owner::Lent(..)).then_some(*pfn)
                };
                let expected = if page + count > 1 << 24 {
                    Err(Error::Invalid)
                } else {
                    one_by_one(count, |n| frame(n).map(|_| ()).ok_or(Error::Denied))
                };
                let table = &mut self.vms[vm];
                let got = self.own.unmap_lent(table, IDS[vm], ipa(page), count);
                for n in 0..self.agree(expected, got) {
                    self.owners.insert(pages[&(page + n)], Owner::Host);
                }
            }
            Op::Share { vm, page } => {
                let pfn = self.frame_at(vm, page);
                let pfn = pfn.filter(|pfn| self.owners[pfn] == Owner::Private(vm, page));
                let got = self.own.vm_share(&mut self.vms[vm], IDS[vm], ipa(page));
                assert_eq!(got, pfn.map(|_| ()).ok_or(Error::Denied));
                if let Some(pfn) = pfn {
                    self.owners.insert(pfn, Owner::Shared(vm, page));
                }
            }
            Op::Unshare { vm, page } => {
                let pfn = self.frame_at(vm, page);
                let pfn = pfn.filter(|pfn| self.owners[pfn] == Owner::Shared(vm, page));
                let got = self.own.vm_unshare(&mut self.vms[vm], IDS[vm], ipa(page));
                assert_eq!(
                    got,
                    pfn.map(|_| ()).ok_or(Error::Denied),
                    "never for want of memory"
                );
                if let Some(pfn) = pfn {
                    self.owners.insert(pfn, Owner::Private(vm, page));
                }
            }
            Op::TakeRunPage { vm, pfn } => {
                self.swap(pfn, Owner::Host, Owner::RunPage(vm), |own| {
                    own.take_run_page(IDS[vm], Pfn(pfn))
                });
            }
            Op::ReleaseRunPage { vm, pfn } => {
                self.swap(pfn, Owner::RunPage(vm), Owner::Host, |own| {
                    own.release_run_page(IDS[vm], Pfn(pfn))
                });
            }
            Op::ReclaimForeign { vm, pfn } => {
                // The id is right for no frame: the call is for a VM that owns nothing.
                let id = VmId(IDS[vm].0 ^ 2);
                assert_eq!(self.own.reclaim(id, Pfn(pfn), 4), Err(Error::Denied));
            }
            Op::HostTouch { pfn, write } => {
                let expected = match self.owners.get(&pfn) {
                    Some(Owner::Core | Owner::Private(..)) => Err(Error::Denied),
                    _ => Ok(()),
                };
                let got = self.own.host_fault(ipa(pfn), write);
                if got == Err(Error::NoMemory) && self.is_scarce() && expected.is_ok() {
                    return;
                }
                assert_eq!(got, expected);
                let mapped = self.setup.machine.translate(self.host, ipa(pfn));
                assert_eq!(mapped.is_some(), expected.is_ok());
            }
            Op::Destroy { vm, budget } => self.destroy(vm, budget),
        }
    }

    fn swap(
        &mut self,
        pfn: u64,
        from: Owner,
        to: Owner,
        call: impl Fn(&Ownership<'a, Machine>) -> Result<(), Error>,
    ) {
        let allowed = self.owners.get(&pfn) == Some(&from);
        assert_eq!(
            call(&self.own),
            if allowed { Ok(()) } else { Err(Error::Denied) }
        );
        if allowed {
            self.owners.insert(pfn, to);
        }
    }

    fn destroy(&mut self, vm: usize, budget: u64) {
        let regs = self.vms[vm].regs();
        let mine = |owner: &Owner| match *owner {
            Owner::Private(v, _) | Owner::Shared(v, _) | Owner::Lent(v, _) => v == vm,
            _ => false,
        };
        let _ = self.own.teardown(&mut self.vms[vm], budget);
        // Frames may come back as soon as teardown has begun.
        let frames: Vec<_> = self
            .owners
            .iter()
            .filter(|(_, o)| mine(o))
            .map(|(p, o)| (*p, *o))
            .collect();
        let mut done = 0;
        for (pfn, owner) in &frames {
            if done == 0 {
                done = self.own.reclaim(IDS[vm], Pfn(*pfn), 1024).unwrap();
            }
            done -= 1;
            let left = if matches!(owner, Owner::Lent(..)) {
                0x1E27
            } else {
                0
            };
            let words = self.setup.machine.words(Pfn(*pfn));
            assert!(
                words.iter().all(|w| w.load(Ordering::Relaxed) == left),
                "{owner:?} {pfn:#x}"
            );
            self.owners.insert(*pfn, Owner::Host);
        }
        while self.own.teardown(&mut self.vms[vm], budget) == Err(Error::Again) {}
        self.setup.machine.unwatch(regs);
        self.vms[vm] = super::vm(self.setup, &self.own, vm as u8 + 1);
    }

    fn fill(&self, pfn: u64, with: u64) {
        for word in self.setup.machine.words(Pfn(pfn)) {
            word.store(with, Ordering::Relaxed);
        }
    }

    fn is_scarce(&self) -> bool {
        self.pool < 64
    }

    /// The frames that moved. A call may do less than expected only for want of table frames.
    fn agree(&self, expected: Outcome, got: Outcome) -> u64 {
        match (expected, got) {
            (Ok(_), Err(Error::NoMemory)) if self.is_scarce() => 0,
            (Ok(most), Ok(done)) if self.is_scarce() && 0 < done && done <= most => done,
            _ => {
                assert_eq!(got, expected);
                got.unwrap_or(0)
            }
        }
    }

    fn check(&self) {
        let machine = &self.setup.machine;
        assert_eq!(machine.complaints(), Vec::<String>::new());
        for (pfn, owner) in &self.owners {
            let entry = self.own.frames().entry(Pfn(*pfn)).unwrap();
            let expected = match *owner {
                Owner::Core => Entry::CORE,
                Owner::Host => Entry::HOST,
                Owner::RunPage(v) => Entry::owned(State::HostShared, IDS[v], ipa(0)),
                Owner::Private(v, p) => Entry::owned(State::VmPrivate, IDS[v], ipa(p)),
                Owner::Shared(v, p) => Entry::owned(State::VmShared, IDS[v], ipa(p)),
                Owner::Lent(v, p) => Entry::owned(State::Lent, IDS[v], ipa(p)),
            };
            assert_eq!(entry, expected, "{pfn:#x}");
        }
        // The hostvisor reaches, at the identity, nothing of the core and nothing private.
        for leaf in machine.leaves(self.host) {
            assert_eq!(leaf.ipa, leaf.pa);
            let pages = (leaf.pa >> 12)..((leaf.pa + leaf.size) >> 12);
            for (pfn, owner) in self.owners.range(pages) {
                let hidden = matches!(owner, Owner::Core | Owner::Private(..));
                assert!(
                    !hidden && leaf.normal(),
                    "the hostvisor reaches {pfn:#x}, {owner:?}"
                );
                let in_block = leaf.size > PAGE_SIZE && matches!(owner, Owner::Shared(..));
                assert!(!in_block, "unsharing {pfn:#x} would need a split");
            }
        }
        // Each VM reaches exactly its own, each page where it belongs.
        for vm in 0..2 {
            let mut seen = BTreeMap::new();
            for leaf in machine.leaves(self.vms[vm].regs()) {
                assert!(leaf.writable() && leaf.normal() && leaf.executable());
                for n in 0..leaf.size >> 12 {
                    assert_eq!(seen.insert((leaf.ipa >> 12) + n, (leaf.pa >> 12) + n), None);
                }
            }
            assert_eq!(seen, self.pages(vm));
        }
        // No table frame is lost or used twice.
        let regs = [self.host, self.vms[0].regs(), self.vms[1].regs()];
        let tables: u64 = regs.into_iter().map(|regs| machine.tables(regs)).sum();
        assert_eq!(tables + self.own.pool().free_count(), self.pool);
    }
}

/// How many of `count` steps succeed in a row, or the first one's error.
fn one_by_one(count: u64, step: impl Fn(u64) -> Result<(), Error>) -> Outcome {
    for n in 0..count.min(MAX_FRAMES_PER_CALL) {
        match step(n) {
            Ok(()) => {}
            Err(error) if n == 0 => return Err(error),
            Err(_) => return Ok(n),
        }
    }
    Ok(count.min(MAX_FRAMES_PER_CALL))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn every_sequence_agrees_with_the_model(
        ops in prop::collection::vec(op(), 1..40),
        pool in prop_oneof![2 => Just(128_u64), 1 => 14_u64..24],
    ) {
        let setup = small();
        let mut world = World::new(&setup, pool);
        let start = world.setup.machine.tables(world.host);
        for op in ops {
            world.run(op);
            world.check();
        }
        // The end of all VMs and one touch of each page bring the machine back to where it began.
        for vm in 0..2 {
            world.destroy(vm, 3);
        }
        let run_pages: Vec<_> = world.owners.iter().filter_map(|(pfn, o)| match o {
            Owner::RunPage(vm) => Some((*pfn, *vm)),
            _ => None,
        }).collect();
        for (pfn, vm) in run_pages {
            world.run(Op::ReleaseRunPage { vm, pfn });
        }
        let ram = RAM.iter().flat_map(|r| r.base.0..r.base.0 + r.frames);
        for pfn in ram.filter(|pfn| *pfn >= A + CORE_FRAMES) {
            world.run(Op::HostTouch { pfn, write: 1 });
        }
        world.check();
        if pool == 128 {
            // Pages of MMIO that were touched on the way may have added the one table around B.
            prop_assert!(world.setup.machine.tables(world.host) <= start + 1);
        }
    }
}
