//! What the interrupt controller promises, checked against a simulated CPU interface.

mod delivery;
mod hostile;
mod model;
mod registers;
mod v2;

use super::block::bits;
use super::{BLOCKS, Fill, KickMask, Model, Vgic};
use abi::run::{LR_ACTIVE, LR_EOI, LR_HW, LR_PENDING, LR_PINTID_SHIFT, LR_PRIORITY_SHIFT};

const VTIMER: u32 = 27;
const GICD: u64 = crate::devices::map::GICD_BASE;
const GICR: u64 = crate::devices::map::GICR_BASE;

/// The SGI frame of a vCPU.
fn sgi_frame(vcpu: usize) -> u64 {
    GICR + vcpu as u64 * 0x2_0000 + 0x1_0000
}

/// The address of the one-bit-per-interrupt register at `offset` for `intid`, and the bit.
fn bit_register(vcpu: usize, intid: u32, offset: u64) -> (u64, u64) {
    let frame = if intid < 32 { sgi_frame(vcpu) } else { GICD };
    (
        frame + offset + u64::from(intid / 32) * 4,
        1 << (intid % 32),
    )
}

const IGROUPR: u64 = 0x080;
const ISENABLER: u64 = 0x100;
const ICENABLER: u64 = 0x180;
const ISPENDR: u64 = 0x200;
const ICPENDR: u64 = 0x280;
const ISACTIVER: u64 = 0x300;
const ICACTIVER: u64 = 0x380;
const IPRIORITYR: u64 = 0x400;

/// A virtual CPU interface with `LRS` list registers, and the physical side of the virtual timer.
#[derive(Clone, Default)]
struct Interface {
    lrs: [u64; LRS],
    fill: Fill,
    /// Acknowledged and not yet deactivated, with the priority at that time.
    stack: Vec<(u32, u64)>,
    vtimer_active: bool,
}

const LRS: usize = 4;

fn intid_of(lr: u64) -> u32 {
    lr as u32
}

fn priority_of(lr: u64) -> u64 {
    lr >> LR_PRIORITY_SHIFT & 0xff
}

impl Interface {
    fn lists(&self) -> &[u64] {
        &self.lrs[..self.fill.count]
    }

    fn running(&self) -> u64 {
        self.stack.last().map_or(0x100, |&(_, priority)| priority)
    }

    /// ICC_IAR: takes the most urgent pending interrupt if it preempts what is active.
    fn acknowledge(&mut self) -> Option<u32> {
        let running = self.running();
        let lr = self.lrs[..self.fill.count]
            .iter_mut()
            .filter(|lr| {
                **lr & (LR_PENDING | LR_ACTIVE) == LR_PENDING && priority_of(**lr) < running
            })
            .min_by_key(|lr| priority_of(**lr))?;
        *lr ^= LR_PENDING | LR_ACTIVE;
        self.stack.push((intid_of(*lr), priority_of(*lr)));
        Some(intid_of(*lr))
    }

    /// ICC_EOIR with EOImode 0: deactivates the latest acknowledged. Returns its INTID, and whether a
    /// maintenance interrupt follows.
    fn end(&mut self) -> Option<(u32, bool)> {
        let (intid, _) = self.stack.pop()?;
        let lr = self.lrs[..self.fill.count]
            .iter_mut()
            .find(|lr| intid_of(**lr) == intid && **lr & LR_ACTIVE != 0)
            .expect("the guest's deactivation found no list register");
        *lr &= !LR_ACTIVE;
        let idle = *lr & LR_PENDING == 0;
        if *lr & LR_HW != 0 {
            self.vtimer_active = false;
        }
        let ended = idle && *lr & LR_HW == 0 && *lr & LR_EOI != 0;
        let valid = self
            .lists()
            .iter()
            .filter(|&&lr| lr & (LR_PENDING | LR_ACTIVE) != 0)
            .count();
        Some((intid, ended || self.fill.underflow && valid <= 1))
    }

    /// The end of a run: gives the list registers back.
    fn exit(&mut self, vgic: &mut Vgic, vcpu: usize) -> KickMask {
        let kick = vgic.drain(vcpu, self.lists());
        self.fill = Fill::default();
        kick
    }

    /// The start of a run: checks what the corevisor and the GIC architecture demand.
    fn enter(&mut self, vgic: &mut Vgic, vcpu: usize) {
        self.fill = vgic.fill(vcpu, &mut self.lrs);
        assert!(
            !self.fill.underflow || self.fill.count == LRS,
            "underflow with room left"
        );
        for (n, &lr) in self.lists().iter().enumerate() {
            assert_ne!(
                lr & (LR_PENDING | LR_ACTIVE),
                0,
                "an inactive interrupt was loaded"
            );
            assert!(
                self.lists()[..n]
                    .iter()
                    .all(|&other| intid_of(other) != intid_of(lr))
            );
            assert!(lr & LR_HW == 0 || intid_of(lr) == VTIMER);
            if lr & LR_HW != 0 {
                assert_eq!(lr >> LR_PINTID_SHIFT & 0x1fff, u64::from(VTIMER));
                assert!(vgic.vtimer_needs_active(vcpu));
            }
        }
        self.vtimer_active = vgic.vtimer_needs_active(vcpu);
    }

    fn refresh(&mut self, vgic: &mut Vgic, vcpu: usize) -> KickMask {
        let kick = self.exit(vgic, vcpu);
        self.enter(vgic, vcpu);
        kick
    }
}

/// The redundant words agree with the state they are derived from, whatever happened before.
fn assert_consistent(vgic: &Vgic) {
    let mut spis_held = [0; BLOCKS];
    for (vcpu, cpu) in vgic.cpus.iter().enumerate() {
        let mut private_held = 0;
        for &intid in &cpu.lists[..cpu.filled] {
            let (index, flag) = (usize::from(intid / 32), 1 << (intid % 32));
            let held = if index == 0 {
                &mut private_held
            } else {
                &mut spis_held[index]
            };
            assert_eq!(*held & flag, 0, "{intid} is in two list registers");
            *held |= flag;
        }
        assert_eq!(cpu.private.held, private_held);
        if vgic.model == Model::V2 {
            for (n, senders) in cpu.senders.iter().enumerate() {
                let latch = cpu.private.latch >> n & 1;
                assert_eq!(latch, u32::from(senders.pending != 0), "SGI {n}");
            }
        }
        let mut spis_todo = [0; BLOCKS];
        for (spi, route) in vgic.routes.iter().enumerate() {
            let queued = vgic.spis[spi / 32].queued >> (spi % 32) & 1;
            if usize::from(route.owner) == vcpu {
                spis_todo[1 + spi / 32] |= queued << (spi % 32);
            }
        }
        let mut expected = spis_todo;
        expected[0] = cpu.private.queued;
        assert_eq!(cpu.todo, expected, "vCPU {vcpu}");
        for (index, &word) in expected.iter().enumerate() {
            assert_eq!(cpu.summary >> index & 1, u32::from(word != 0));
        }
    }
    let blocks = (0..vgic.cpus.len())
        .map(|vcpu| (vcpu, 0))
        .chain((1..BLOCKS).map(|index| (0, index)));
    for (vcpu, index) in blocks {
        let block = vgic.block(vcpu, index).unwrap();
        if index != 0 {
            assert_eq!(block.held, spis_held[index]);
        }
        assert_eq!(block.queued & block.held, 0);
        assert_eq!((block.carried | block.forced) & !block.held, 0);
        let due = (block.wanted(vgic.groups) | block.active) & !block.held;
        for bit in bits(due ^ block.queued) {
            let spi = (index * 32 + bit as usize)
                .checked_sub(32)
                .expect("a private interrupt is not queued");
            assert_eq!(due >> bit & 1, 1, "queued without reason");
            assert_eq!(
                vgic.routes[spi].target,
                super::NOBODY,
                "INTID {} is not queued",
                spi + 32
            );
        }
    }
}

/// A controller with both groups on and every interrupt enabled at priority 0xa0.
fn running(vcpus: usize) -> Vgic {
    let mut vgic = Vgic::new(Model::V3, vcpus, VTIMER);
    let mut set = |ipa, value| assert!(vgic.write(0, ipa, 4, value).is_empty());
    set(GICD, 0b11);
    for vcpu in 0..vcpus {
        set(sgi_frame(vcpu) + ISENABLER, 0xffff_ffff);
        (0..8).for_each(|n| set(sgi_frame(vcpu) + IPRIORITYR + 4 * n, 0xa0a0_a0a0));
    }
    for n in 1..9 {
        set(GICD + ISENABLER + 4 * n, 0xffff_ffff);
    }
    for n in 8..72 {
        set(GICD + IPRIORITYR + 4 * n, 0xa0a0_a0a0);
    }
    vgic
}
