//! The controller, list registers and guests together against a model of an ideal GIC that has none of
//! its words: one record an interrupt, searched whole.

use super::*;
use proptest::prelude::*;

const VCPUS: usize = 3;
/// Some SGIs, PPIs and SPIs: more than list registers.
const INTIDS: [u32; 14] = [0, 3, 15, VTIMER, 30, 32, 33, 34, 40, 63, 64, 95, 100, 287];

#[derive(Clone, Copy, Debug)]
enum Op {
    Sgi {
        from: usize,
        targets: u16,
        intid: u32,
    },
    Level {
        vcpu: usize,
        intid: u32,
        level: bool,
    },
    Enable {
        vcpu: usize,
        intid: u32,
        on: bool,
    },
    Pend {
        vcpu: usize,
        intid: u32,
        on: bool,
    },
    Group {
        vcpu: usize,
        intid: u32,
    },
    Config {
        intid: u32,
        edge: bool,
    },
    Priority {
        vcpu: usize,
        intid: u32,
        priority: u8,
    },
    Route {
        intid: u32,
        target: u32,
    },
    Control {
        groups: u64,
    },
    Acknowledge {
        vcpu: usize,
    },
    End {
        vcpu: usize,
    },
    Exit {
        vcpu: usize,
    },
}

fn op() -> impl Strategy<Value = Op> {
    let vcpu = || 0..VCPUS;
    let intid = || prop::sample::select(&INTIDS[..]);
    let spi = || prop::sample::select(&INTIDS[5..]);
    prop_oneof![
        3 => (vcpu(), any::<u16>(), prop::sample::select(&INTIDS[..3]))
            .prop_map(|(from, targets, intid)| Op::Sgi { from, targets, intid }),
        9 => (vcpu(), intid(), any::<bool>()).prop_map(|(vcpu, intid, level)| Op::Level { vcpu, intid, level }),
        2 => (vcpu(), intid(), prop::bool::weighted(0.7)).prop_map(|(vcpu, intid, on)| Op::Enable { vcpu, intid, on }),
        2 => (vcpu(), intid(), prop::bool::weighted(0.7)).prop_map(|(vcpu, intid, on)| Op::Pend { vcpu, intid, on }),
        1 => (vcpu(), intid()).prop_map(|(vcpu, intid)| Op::Group { vcpu, intid }),
        1 => (spi(), any::<bool>()).prop_map(|(intid, edge)| Op::Config { intid, edge }),
        1 => (vcpu(), intid(), 1u8..6).prop_map(|(vcpu, intid, n)| Op::Priority { vcpu, intid, priority: n << 5 }),
        2 => (spi(), 0u32..VCPUS as u32 + 1).prop_map(|(intid, target)| Op::Route { intid, target }),
        1 => (0u64..4).prop_map(|groups| Op::Control { groups: groups | 1 << (groups & 1) }),
        8 => vcpu().prop_map(|vcpu| Op::Acknowledge { vcpu }),
        6 => vcpu().prop_map(|vcpu| Op::End { vcpu }),
        2 => vcpu().prop_map(|vcpu| Op::Exit { vcpu }),
    ]
}

/// One interrupt of the ideal GIC.
#[derive(Clone, Copy, Debug)]
struct Irq {
    /// The vCPU it is private to, else where it is routed; `VCPUS` is nobody.
    target: usize,
    intid: u32,
    enabled: bool,
    latch: bool,
    line: bool,
    edge: bool,
    group: u64,
    priority: u8,
    active: bool,
    /// Where it was acknowledged.
    owner: usize,
}

impl Irq {
    fn pending(&self) -> bool {
        self.latch || self.line && !self.edge
    }
}

struct Ideal {
    groups: u64,
    irqs: Vec<Irq>,
}

impl Ideal {
    /// As [`running`] makes it.
    fn new() -> Self {
        let irqs = INTIDS.iter().flat_map(|&intid| {
            let copies = if intid < 32 { VCPUS } else { 1 };
            (0..copies).map(move |target| Irq {
                target,
                intid,
                enabled: true,
                latch: false,
                line: false,
                edge: intid < 16,
                group: 1,
                priority: 0xa0,
                active: false,
                owner: 0,
            })
        });
        Self {
            groups: 0b11,
            irqs: irqs.collect(),
        }
    }

    fn find(&mut self, vcpu: usize, intid: u32) -> &mut Irq {
        self.irqs
            .iter_mut()
            .find(|irq| irq.intid == intid && (intid >= 32 || irq.target == vcpu))
            .unwrap()
    }

    fn eligible(&self, vcpu: usize) -> impl Iterator<Item = &Irq> {
        self.irqs.iter().filter(move |irq| {
            irq.target == vcpu
                && irq.pending()
                && irq.enabled
                && !irq.active
                && self.groups >> irq.group & 1 != 0
        })
    }

    /// The priority of the most urgent interrupt that `vcpu` would be given.
    fn best(&self, vcpu: usize) -> Option<u64> {
        self.eligible(vcpu).map(|irq| irq.priority.into()).min()
    }
}

/// The controller with its guests.
struct Machine {
    vgic: Vgic,
    guests: [Interface; VCPUS],
    ideal: Ideal,
    /// Kicked, but not yet out of the guest.
    kicked: u32,
}

impl Machine {
    fn new() -> Self {
        let mut vgic = running(VCPUS);
        let mut guests: [Interface; VCPUS] = Default::default();
        for (vcpu, guest) in guests.iter_mut().enumerate() {
            guest.enter(&mut vgic, vcpu);
        }
        Self {
            vgic,
            guests,
            ideal: Ideal::new(),
            kicked: 0,
        }
    }

    fn refresh(&mut self, vcpu: usize) {
        let kick = self.guests[vcpu].refresh(&mut self.vgic, vcpu);
        self.kicked = (self.kicked | kick.0) & !(1 << vcpu);
    }

    /// Lets every kicked vCPU exit and enter again.
    fn serve_kicks(&mut self) {
        for round in 0.. {
            assert!(round < 10, "vCPUs kick each other for ever");
            let kicked = self.kicked;
            if kicked == 0 {
                break;
            }
            bits(kicked).for_each(|vcpu| self.refresh(vcpu as usize));
        }
    }

    fn write_bit(&mut self, vcpu: usize, intid: u32, offset: u64) -> KickMask {
        let (ipa, bit) = bit_register(vcpu, intid, offset);
        self.vgic.write(0, ipa, 4, bit)
    }

    /// Does `op` to both, except for what guests do to their CPU interfaces. True if the ideal GIC
    /// acts on it at once where list registers need an exit that nobody is kicked for: an interrupt
    /// that gets another priority or trigger.
    fn apply(&mut self, op: Op) -> bool {
        let mut quiet = false;
        let kick = match op {
            Op::Sgi {
                from,
                targets,
                intid,
            } => {
                for vcpu in (0..VCPUS).filter(|vcpu| targets >> vcpu & 1 != 0) {
                    self.ideal.find(vcpu, intid).latch = true;
                }
                self.vgic
                    .send_sgi(from, u64::from(intid) << 24 | u64::from(targets), true)
            }
            Op::Level { vcpu, intid, level } => {
                if intid >= 16 {
                    let irq = self.ideal.find(vcpu, intid);
                    irq.latch |= irq.edge && level && !irq.line;
                    irq.line = level;
                }
                self.vgic.set_level(vcpu, intid, level)
            }
            Op::Enable { vcpu, intid, on } => {
                self.ideal.find(vcpu, intid).enabled = on;
                self.write_bit(vcpu, intid, if on { ISENABLER } else { ICENABLER })
            }
            Op::Pend { vcpu, intid, on } => {
                self.ideal.find(vcpu, intid).latch = on;
                self.write_bit(vcpu, intid, if on { ISPENDR } else { ICPENDR })
            }
            Op::Group { vcpu, intid } => {
                self.ideal.find(vcpu, intid).group ^= 1;
                let (ipa, bit) = bit_register(vcpu, intid, IGROUPR);
                let word = self.vgic.read(0, ipa, 4);
                self.vgic.write(0, ipa, 4, word ^ bit)
            }
            Op::Config { intid, edge } => {
                self.ideal.find(0, intid).edge = edge;
                let (ipa, shift) = (GICD + 0xc00 + u64::from(intid / 16) * 4, intid % 16 * 2 + 1);
                let word = self.vgic.read(0, ipa, 4) & !(1 << shift);
                quiet = true;
                self.vgic.write(0, ipa, 4, word | u64::from(edge) << shift)
            }
            Op::Priority {
                vcpu,
                intid,
                priority,
            } => {
                // Software must not change the priority of an active interrupt.
                if self.ideal.find(vcpu, intid).active {
                    return false;
                }
                self.ideal.find(vcpu, intid).priority = priority;
                quiet = true;
                let frame = if intid < 32 { sgi_frame(vcpu) } else { GICD };
                self.vgic
                    .write(0, frame + IPRIORITYR + u64::from(intid), 1, priority.into())
            }
            Op::Route { intid, target } => {
                self.ideal.find(0, intid).target = target as usize;
                self.vgic
                    .write(0, GICD + 0x6000 + 8 * u64::from(intid), 8, target.into())
            }
            Op::Control { groups } => {
                self.ideal.groups = groups;
                self.vgic.write(0, GICD, 4, groups)
            }
            Op::Acknowledge { .. } | Op::End { .. } | Op::Exit { .. } => KickMask::NONE,
        };
        self.kicked |= kick.0;
        quiet
    }

    fn acknowledge(&mut self, vcpu: usize) -> Option<u32> {
        let intid = self.guests[vcpu].acknowledge()?;
        let irq = self.ideal.find(vcpu, intid);
        irq.latch = false;
        irq.active = true;
        irq.owner = vcpu;
        Some(intid)
    }

    fn end(&mut self, vcpu: usize) -> Option<u32> {
        let (intid, maintenance) = self.guests[vcpu].end()?;
        let irq = self.ideal.find(vcpu, intid);
        assert!(irq.active && irq.owner == vcpu);
        irq.active = false;
        // Deactivated by the HW bit, the physical interrupt fires again while the timer is due.
        let fires = intid == VTIMER && irq.line && !self.guests[vcpu].vtimer_active;
        if maintenance || fires {
            self.refresh(vcpu);
        }
        Some(intid)
    }
}

proptest! {
    /// Served at once, kicks make the whole indistinguishable from an ideal GIC: the same interrupts,
    /// at the same time, in order of priority, not one more.
    #[test]
    fn with_prompt_kicks_guests_see_an_ideal_gic(ops in prop::collection::vec(op(), 1..150)) {
        let mut machine = Machine::new();
        for op in ops {
            if machine.apply(op) {
                machine.kicked = (1 << VCPUS) - 1;
            }
            machine.serve_kicks();
            match op {
                Op::Acknowledge { vcpu } => {
                    let running = machine.guests[vcpu].running();
                    let best = machine.ideal.best(vcpu).filter(|&best| best < running);
                    let eligible: Vec<u32> = machine.ideal.eligible(vcpu)
                        .filter(|irq| best == Some(irq.priority.into()))
                        .map(|irq| irq.intid)
                        .collect();
                    let taken = machine.acknowledge(vcpu);
                    prop_assert_eq!(taken.is_some(), best.is_some(), "{:?}", eligible);
                    prop_assert!(taken.is_none_or(|intid| eligible.contains(&intid)));
                }
                Op::End { vcpu } => {
                    machine.end(vcpu);
                    machine.serve_kicks();
                }
                Op::Exit { vcpu } => {
                    let kick = machine.guests[vcpu].exit(&mut machine.vgic, vcpu);
                    prop_assert!(kick.without(vcpu).is_empty(), "nothing was under way");
                    prop_assert_eq!(machine.vgic.deliverable(vcpu), machine.ideal.best(vcpu).is_some());
                    machine.guests[vcpu].enter(&mut machine.vgic, vcpu);
                }
                _ => {}
            }
            assert_consistent(&machine.vgic);
        }
    }

    /// Served late, kicks still lose and invent nothing: every edge leads to a later delivery, no edge
    /// to two, a high line is delivered until it is lowered, and nobody but kicked vCPUs need exit.
    #[test]
    fn with_late_kicks_nothing_is_lost_or_invented(
        ops in prop::collection::vec(op(), 1..150),
        prompt in prop::collection::vec(any::<bool>(), 150),
    ) {
        let mut machine = Machine::new();
        for n in 1..9 {
            // All SPIs edge-triggered but INTIDs 32 to 47.
            for half in 0..2 {
                let value = if (n, half) == (1, 0) { 0 } else { 0xaaaa_aaaa };
                let _ = machine.vgic.write(0, GICD + 0xc00 + 8 * n + 4 * half, 4, value);
            }
        }
        machine.ideal.irqs.iter_mut().for_each(|irq| irq.edge |= irq.intid >= 48);
        let mut edges = Edges::default();
        for (op, prompt) in ops.into_iter().zip(prompt) {
            match op {
                // What may make list registers and model differ for a good reason.
                Op::Config { .. } | Op::Group { .. } | Op::Control { .. } | Op::Priority { .. } => continue,
                Op::Pend { on: false, .. } | Op::Enable { on: false, .. } => continue,
                Op::Route { target, .. } if target as usize == VCPUS => continue,
                Op::Acknowledge { vcpu } => edges.take(&mut machine, vcpu),
                Op::End { vcpu } => { machine.end(vcpu); }
                Op::Exit { vcpu } => machine.refresh(vcpu),
                _ => {
                    edges.note(&machine.ideal, op);
                    machine.apply(op);
                }
            }
            if prompt {
                let first = machine.kicked.trailing_zeros() as usize;
                if first < VCPUS {
                    machine.refresh(first);
                }
            }
            assert_consistent(&machine.vgic);
        }
        // The guests work off what they have; handlers silence their device.
        for round in 0.. {
            prop_assert!(round < 1000, "it never ends");
            machine.serve_kicks();
            let mut idle = true;
            for vcpu in 0..VCPUS {
                let before = machine.guests[vcpu].stack.len();
                edges.take(&mut machine, vcpu);
                idle &= machine.guests[vcpu].stack.len() == before;
                if let Some(&(intid, _)) = machine.guests[vcpu].stack.last() {
                    idle = false;
                    machine.apply(Op::Level { vcpu, intid, level: false });
                    machine.end(vcpu);
                }
            }
            if idle {
                break;
            }
        }
        for irq in &machine.ideal.irqs {
            prop_assert!(!irq.pending() && !irq.active, "lost: {:?}", irq);
        }
        prop_assert!(edges.owed.is_empty(), "edges never delivered: {:?}", edges.owed);
    }
}

/// Bookkeeping of edge-triggered interrupts, by vCPU (0 for SPIs) and INTID.
#[derive(Default)]
struct Edges {
    /// An edge came since the last delivery.
    owed: std::collections::BTreeSet<(usize, u32)>,
    /// Edges less deliveries.
    credit: std::collections::BTreeMap<(usize, u32), u32>,
}

impl Edges {
    fn add(&mut self, irq: &Irq, vcpu: usize) {
        let key = (if irq.intid < 32 { vcpu } else { 0 }, irq.intid);
        *self.credit.entry(key).or_default() += 1;
        self.owed.insert(key);
    }

    fn note(&mut self, ideal: &Ideal, op: Op) {
        for irq in &ideal.irqs {
            let here = |vcpu: usize| irq.intid >= 32 || irq.target == vcpu;
            match op {
                Op::Sgi { targets, intid, .. }
                    if irq.intid == intid && targets >> irq.target & 1 != 0 =>
                {
                    self.add(irq, irq.target);
                }
                Op::Level {
                    vcpu,
                    intid,
                    level: true,
                } if irq.intid == intid && here(vcpu) && irq.edge && !irq.line && intid >= 16 => {
                    self.add(irq, vcpu);
                }
                Op::Pend {
                    vcpu,
                    intid,
                    on: true,
                } if irq.intid == intid && here(vcpu) && irq.edge => {
                    self.add(irq, vcpu);
                }
                _ => {}
            }
        }
    }

    fn take(&mut self, machine: &mut Machine, vcpu: usize) {
        let Some(intid) = machine.acknowledge(vcpu) else {
            return;
        };
        if machine.ideal.find(vcpu, intid).edge {
            let key = (if intid < 32 { vcpu } else { 0 }, intid);
            self.owed.remove(&key);
            let credit = self
                .credit
                .get_mut(&key)
                .expect("a delivery without an edge");
            *credit = credit.checked_sub(1).expect("more deliveries than edges");
        }
    }
}
