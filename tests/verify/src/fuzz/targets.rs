//! The targets.

use crate::machine::Fault;
use crate::noninterference;
use crate::rng::Rng;
use abi::run::LR_SGI_SOURCE;
use arch::esr::{self, Exception};
use arch::pstate;
use bundle::{Bundle, Manifest, image, layout, newc};
use corevisor::{idregs, listreg, sysreg};
use hostvisor::devices::{self, Devices, Target, map};
use hostvisor::vgic::{Model, Vgic};
use std::cell::RefCell;

/// Calls of a hostile hostvisor, traps of hostile guests: on two machines that differ in a protected
/// VM's secret. Nobody may see it, and nothing may panic.
pub fn hypercalls(bytes: &[u8]) {
    std::thread_local! {
        static RUNS: RefCell<Option<noninterference::Runs>> = const { RefCell::new(None) };
    }
    RUNS.with_borrow_mut(|runs| {
        let runs = runs.get_or_insert_with(|| noninterference::Runs::new(Fault::None));
        if let Err(seen) = runs.sequence(Rng::Bytes(bytes)) {
            panic!("{seen}");
        }
    });
}

/// Decoding and deciding about traps.
pub fn traps(bytes: &[u8]) {
    let mut rng = Rng::Bytes(bytes);
    let ids = idregs::sanitise_all(&core::array::from_fn(|_| rng.word()));
    while !rng.is_exhausted() {
        let (esr, value, state) = (rng.word(), rng.word(), rng.word());
        match esr::decode(esr) {
            Exception::SysReg(access) => {
                assert!(access.rt < 32);
                let action = sysreg::decide(access, &ids);
                let trapped = matches!(action, sysreg::Action::PhysicalTimer(_));
                assert!(!trapped || (access.reg.crn, access.reg.crm) == (14, 2));
            }
            Exception::DataAbort(abort) => {
                if let Some(access) = abort.access {
                    assert!(access.rt < 32 && matches!(access.size, 1 | 2 | 4 | 8));
                    let stored = access.truncate(value);
                    assert_eq!(access.truncate(stored), stored);
                    assert_eq!(
                        access.truncate(access.extend(value)) ^ stored,
                        if access.wide || access.size < 8 {
                            0
                        } else {
                            value >> 32 << 32
                        }
                    );
                }
            }
            _ => {}
        }
        assert!(matches!(esr::instruction_length(esr), 2 | 4));
        // An exception to EL1 always ends at EL1, masked.
        let entered = pstate::on_exception(state, value, esr & 1 != 0);
        assert_eq!(entered & 0x3CF, 0x3C5);
        assert!(pstate::sync_vector_offset(state) <= 0x600);
        let _ = (
            pstate::stepped(state),
            pstate::esr_data_abort(state, value & 1 != 0),
        );
        if let Ok(checked) = listreg::check(value, 27, LR_SGI_SOURCE) {
            assert_eq!(listreg::check(checked, 27, LR_SGI_SOURCE), Ok(checked));
            assert!(checked & 1 << 61 == 0 || checked & 0xFFFF_FFFF == 27);
        }
    }
}

/// Bundles, manifests, archives and kernel headers.
pub fn bundle(bytes: &[u8]) {
    let (salvaged, error) = Bundle::salvage(bytes);
    let read = Bundle::read(bytes);
    assert_eq!(read.is_ok(), error.is_none(), "salvage and read disagree");
    for vm in salvaged.vms.iter().flatten() {
        assert!(
            vm.manifest.check().is_ok(),
            "a manifest that breaks its own rules"
        );
        let plan = layout::plan(
            &vm.manifest,
            vm.kernel,
            vm.initrd.len() as u64,
            layout::FDT_MAX,
        );
        if let Ok(plan) = plan {
            let end = plan.ram.base.0 + plan.ram.size;
            for part in [Some(plan.kernel), Some(plan.fdt), plan.initrd]
                .into_iter()
                .flatten()
            {
                assert!(
                    part.base >= plan.ram.base && part.base.0 + part.size <= end,
                    "outside RAM"
                );
            }
        }
    }
    let entries = newc::Reader::new(bytes).take(bytes.len() + 1).count();
    assert!(
        entries <= bytes.len() / 110 + 1,
        "more entries than there is room for"
    );
    let _ = image::Header::read(bytes);
    if let Ok(manifest) = Manifest::parse(bytes) {
        let again = Manifest::parse(manifest.to_string().as_bytes());
        assert_eq!(again.map(|m| m.to_string()), Ok(manifest.to_string()));
    }
}

/// Device trees as boot takes them from firmware.
pub fn tree(bytes: &[u8]) {
    let mut tree = bytes.to_vec();
    if boot::tree_check::normalise(&mut tree).is_err() {
        return;
    }
    let mut again = tree.clone();
    assert!(boot::tree_check::normalise(&mut again).is_ok());
    assert!(again == tree, "a second pass changes something");
    let _ = boot::tree::console_of(&tree);
    if let Ok(info) = boot::tree::parse(&tree, 0) {
        let ram: Vec<_> = info.ram.iter().collect();
        assert!(
            ram.windows(2).all(|pair| pair[0].end <= pair[1].start),
            "RAM overlaps itself"
        );
        for reserved in info.reserved.iter() {
            let apart = |range: &&_| disjoint(range, reserved);
            assert!(ram.iter().all(apart), "reserved memory is RAM");
        }
    }
}

fn disjoint(a: &boot::ranges::Range, b: &boot::ranges::Range) -> bool {
    a.end <= b.start || b.end <= a.start
}

/// A guest's accesses to the interrupt controller, mixed with what the hostvisor does with it.
pub fn vgic(bytes: &[u8]) {
    let mut rng = Rng::Bytes(bytes);
    let vcpus = 1 + rng.below(4) as usize;
    let (model, sgi_source) = if rng.one_in(2) {
        (Model::V2, LR_SGI_SOURCE)
    } else {
        (Model::V3, 0)
    };
    let mut vgic = Vgic::new(model, vcpus, map::VTIMER_INTID);
    let mut lists = vec![([0_u64; 4], 0_usize); vcpus];
    while !rng.is_exhausted() {
        let vcpu = rng.below(vcpus as u64) as usize;
        let size = 1 << rng.below(4);
        let kicks = match rng.below(8) {
            0 => {
                let _ = vgic.read(vcpu, address(&mut rng), size);
                continue;
            }
            1..=3 => vgic.write(vcpu, address(&mut rng), size, rng.word()),
            4 => vgic.send_sgi(vcpu, rng.word(), rng.one_in(2)),
            5 => vgic.set_level(vcpu, rng.below(1100) as u32, rng.one_in(2)),
            6 => {
                let (lrs, count) = &mut lists[vcpu];
                let fill = vgic.fill(vcpu, lrs);
                assert!(fill.count <= lrs.len());
                for lr in &lrs[..fill.count] {
                    let checked = listreg::check(*lr, u64::from(map::VTIMER_INTID), sgi_source);
                    assert!(checked.is_ok(), "the core would refuse {lr:#x}");
                }
                assert!(!listreg::has_duplicates(&lrs[..fill.count]));
                *count = fill.count;
                continue;
            }
            _ => {
                let (lrs, count) = &mut lists[vcpu];
                // The guest acknowledges, ends, or leaves alone.
                for lr in &mut lrs[..*count] {
                    *lr = match rng.below(4) {
                        0 => *lr & !(0b11 << 62),
                        1 if *lr & 1 << 62 != 0 => (*lr & !(1 << 62)) | 1 << 63,
                        _ => *lr,
                    };
                }
                vgic.drain(vcpu, &lrs[..core::mem::take(count)])
            }
        };
        assert!(
            kicks.iter().all(|kicked| kicked < vcpus),
            "a vCPU that is not there is kicked"
        );
    }
}

fn address(rng: &mut Rng<'_>) -> u64 {
    let frame = rng.pick(&[
        0x0800_0000,
        0x080A_0000,
        0x080B_0000,
        0x080C_0000,
        0x080E_0000,
    ]);
    if rng.one_in(16) {
        rng.word()
    } else {
        frame + rng.below(0x1_0000)
    }
}

/// A guest's accesses to UART and clock, while input arrives and time goes on.
pub fn devices(bytes: &[u8]) {
    let mut rng = Rng::Bytes(bytes);
    let mut devices = Devices::new(1 + rng.below(64) as usize);
    let mut now = 1000_u64;
    while !rng.is_exhausted() {
        let size = 1 << rng.below(4);
        let base = rng.pick(&[map::UART_BASE, map::RTC_BASE, map::VIRTIO_BASE]);
        let ipa = base + rng.below(0x1000);
        let target = devices::decode(ipa, size);
        match (rng.below(6), target) {
            (0, _) => {
                let _ = devices.push_input(rng.word() as u8);
            }
            (1, _) => {
                now = now.wrapping_add(rng.below(1 << 33));
                let _ = devices.tick(now);
            }
            (2, Some(target)) => {
                let (value, _) = devices.read(target, size, now);
                assert!(
                    size == 8 || value >> (8 * size) == 0,
                    "a read is wider than asked"
                );
            }
            (_, Some(target @ (Target::Uart(_) | Target::Rtc(_) | Target::Virtio { .. }))) => {
                let _ = devices.write(target, size, rng.word(), now);
            }
            _ => {}
        }
        let _ = devices.next_alarm();
    }
}
