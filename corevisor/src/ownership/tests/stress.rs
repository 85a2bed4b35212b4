//! Several CPUs at work on the same frames. Each owns a frame at most once, gets it zeroed, and finds
//! its mark untouched until it gives it back.

use super::*;

const CPUS: u16 = 4;
const ROUNDS: u64 = 400;
/// The contended frames: two blocks.
const FIRST: u64 = A + 512;
const FRAMES: u64 = 1024;

struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

fn mark(setup: &Setup, pfn: u64) -> &AtomicU64 {
    &setup.machine.words(Pfn(pfn))[7]
}

fn cpu(setup: &Setup, own: &Ownership<'_, Machine>, id: u16) -> u64 {
    let mut random = Random(u64::from(id).wrapping_mul(0x9E37_79B9_7F4A_7C15));
    let mut moved = 0;
    for _ in 0..ROUNDS {
        let mut table = own.new_vm_table(id as u8, None).unwrap();
        let mut mine = Vec::new();
        for _ in 0..4 {
            let (at, count) = match random.below(3) {
                0 => (random.below(2) * 512, 512),
                1 => (random.below(FRAMES), 1),
                _ => (random.below(FRAMES), 1 + random.below(40)),
            };
            let count = count.min(FRAMES - at);
            match own.donate(&mut table, VmId(id), ipa(at), Pfn(FIRST + at), count) {
                Ok(done) => mine.extend((FIRST + at)..(FIRST + at + done)),
                Err(Error::Busy | Error::Denied | Error::Exists) => {}
                Err(error) => panic!("{error:?}"),
            }
        }
        for pfn in &mine {
            assert_eq!(
                mark(setup, *pfn).swap(id.into(), Ordering::Relaxed),
                0,
                "{pfn:#x}"
            );
            let page = ipa(*pfn - FIRST);
            assert_eq!(
                table.walk(own.pool(), page).map(|m| m.pa),
                Some(Pfn(*pfn).base())
            );
            assert!(own.host_walk(Ipa(Pfn(*pfn).base().0)).is_none());
        }
        if let Some(pfn) = mine.first() {
            let page = ipa(*pfn - FIRST);
            assert_eq!(own.vm_share(&mut table, VmId(id), page), Ok(()));
            assert_eq!(own.vm_unshare(&mut table, VmId(id), page), Ok(()));
            assert!(own.host_walk(Ipa(Pfn(*pfn).base().0)).is_none());
        }
        while own.teardown(&mut table, 3) == Err(Error::Again) {}
        for pfn in &mine {
            assert_eq!(
                mark(setup, *pfn).load(Ordering::Relaxed),
                id.into(),
                "{pfn:#x}"
            );
            assert_eq!(own.reclaim(VmId(id), Pfn(*pfn), 1), Ok(1));
        }
        moved += mine.len() as u64;
    }
    moved
}

/// The hostvisor's own accesses, which put blocks and pages back into its table all the time.
fn host(own: &Ownership<'_, Machine>) {
    let mut random = Random(0xC01D);
    for _ in 0..ROUNDS * 40 {
        let pfn = FIRST + random.below(FRAMES);
        match own.host_fault(ipa(pfn), 1) {
            Ok(()) | Err(Error::Denied | Error::Busy) => {}
            Err(error) => panic!("{error:?}"),
        }
    }
}

#[test]
fn cpus_contend_for_the_same_frames() {
    let setup = small();
    let own = boot(&setup);
    let free = own.pool().free_count();
    for pfn in FIRST..FIRST + FRAMES {
        mark(&setup, pfn).store(0, Ordering::Relaxed);
    }
    let moved: u64 = std::thread::scope(|scope| {
        let (setup, own) = (&setup, &own);
        let hosts = [(); 2].map(|()| scope.spawn(move || host(own)));
        let cpus: Vec<_> = (1..=CPUS)
            .map(|id| scope.spawn(move || cpu(setup, own, id)))
            .collect();
        let moved = cpus.into_iter().map(|thread| thread.join().unwrap()).sum();
        hosts.into_iter().for_each(|thread| thread.join().unwrap());
        moved
    });
    assert!(
        moved > ROUNDS,
        "{moved} frames moved: no contention worth the name"
    );
    for pfn in FIRST..FIRST + FRAMES {
        assert_eq!(own.frames().entry(Pfn(pfn)), Some(Entry::HOST));
        assert_eq!(own.host_fault(ipa(pfn), 1), Ok(()));
    }
    assert_eq!(
        own.pool().free_count(),
        free,
        "the hostvisor has its blocks again"
    );
    setup.machine.watch(own.host_regs());
    assert!(setup.machine.complaints().is_empty());
}
