//! Virtio devices: that they work, and that nothing this driver does to them harms anything but them.

use crate::verdict::{Problem, Verdict, check, check_eq, fail};
use crate::virtio::{self, Descriptor, Device, F_ACCESS_PLATFORM, F_INDIRECT, Queue, reg};
use crate::{cpu, gic, timer};

const RNG: u32 = 4;
/// Pages of the arena.
const RINGS: usize = 0;
const OTHER: usize = 1;
const BUFFER: usize = 2;
const TABLE: usize = 3;
const SECRET: u64 = 0x005e_c2e7_005e_c2e7;

/// Changes where a queue lies; told the end of RAM.
type Misplace = fn(&mut Queue, u64);

fn rng() -> Result<Device, Problem> {
    virtio::find(RNG, 0).ok_or(Problem::Skip("no entropy device"))
}

fn start(device: Device, features: u64, queue: &Queue) -> Verdict {
    check!(device.negotiate(features), "features are refused");
    device.place(0, queue);
    device.ready();
    check!(!device.is_broken(), "the device breaks at DRIVER_OK");
    Ok(())
}

/// Entropy arrives, not the same twice, with an interrupt.
pub(crate) fn entropy() -> Verdict {
    let device = rng()?;
    let mut queue = Queue::new(RINGS, 8);
    start(device, 0, &queue)?;
    gic::set_edge(device.intid, true);
    // A GICv2 starts with SPIs that nobody gets.
    gic::route(device.intid, cpu::mpidr());
    gic::enable(device.intid);
    let before = gic::count(0, device.intid);
    let buffer = virtio::page(BUFFER);
    virtio::clear(buffer, 4096);
    for round in 0..20u64 {
        queue.add((round % 8) as u16, buffer + 64 * round, 64, true);
        device.notify(0);
        let Some((head, written)) = queue.wait() else {
            fail!("round {round}: nothing comes back")
        };
        check_eq!(u64::from(head), round % 8, "head");
        check_eq!(written, 64, "bytes written");
        let deadline = timer::now() + timer::frequency();
        while gic::count(0, device.intid) == before + round as u32 && timer::now() < deadline {}
        check_eq!(
            gic::count(0, device.intid),
            before + round as u32 + 1,
            "interrupts after round {round}"
        );
        check_eq!(device.get(reg::INTERRUPT_STATUS), 1, "interrupt status");
        device.set(reg::INTERRUPT_ACK, 1);
    }
    gic::disable(device.intid);
    device.set(reg::STATUS, 0);
    let word = |n: u64| virtio::load::<u64>(buffer + 8 * n);
    let repeated = (0..160).any(|a| word(a) == 0 || (a + 1..160).any(|b| word(a) == word(b)));
    check!(!repeated, "words come twice");
    Ok(())
}

/// Each of the ways in which a guest can write rings to hurt the hypervisor ends in DEVICE_NEEDS_RESET, and a
/// reset heals the device.
pub(crate) fn hostile() -> Verdict {
    let device = rng()?;
    let buffer = virtio::page(BUFFER);
    let good = Descriptor {
        address: buffer,
        len: 64,
        flags: 2,
        next: 0,
    };
    let end = virtio::end_of_ram();
    // A table whose first descriptor names one more table, which is in order: so is the second descriptor itself.
    let table = virtio::page(TABLE);
    let inner = Descriptor {
        address: table + 16,
        len: 16,
        flags: 4,
        next: 0,
    };
    inner.write(table);
    good.write(table + 16);
    let at = |address, len| Descriptor {
        address,
        len,
        ..good
    };
    let flags = |flags, next| Descriptor {
        flags,
        next,
        ..good
    };
    let chains: [(&str, [Descriptor; 2]); 17] = [
        ("loop of one", [flags(3, 0), good]),
        ("loop of two", [flags(3, 1), flags(3, 0)]),
        ("next out of range", [flags(3, 8), good]),
        ("next far out of range", [flags(3, 0xffff), good]),
        ("read behind write", [flags(3, 1), flags(0, 0)]),
        ("nothing to write to", [flags(0, 0), good]),
        ("no bytes", [at(buffer, 0), good]),
        (
            "no bytes in front of some",
            [
                Descriptor {
                    len: 0,
                    ..flags(3, 1)
                },
                good,
            ],
        ),
        ("below RAM", [at(0x3fff_ffff, 2), good]),
        ("distributor", [at(0x0800_0000, 64), good]),
        ("own registers", [at(0x0a00_0000, 64), good]),
        ("across the end of RAM", [at(end - 32, 64), good]),
        ("length that wraps around", [at(u64::MAX - 8, 64), good]),
        ("length of 4 GiB", [at(buffer, u32::MAX), good]),
        ("null", [at(0, 64), good]),
        (
            "nested table",
            [
                Descriptor {
                    address: table,
                    len: 16,
                    flags: 4,
                    next: 0,
                },
                good,
            ],
        ),
        (
            "table of odd length",
            [
                Descriptor {
                    address: table + 16,
                    len: 17,
                    flags: 4,
                    next: 0,
                },
                good,
            ],
        ),
    ];
    for (what, chain) in chains {
        let mut queue = Queue::new(RINGS, 8);
        start(device, F_INDIRECT, &queue)?;
        queue.describe(0, &chain[0]);
        queue.describe(1, &chain[1]);
        queue.offer(0);
        device.notify(0);
        check!(device.is_broken(), "{what}: the device goes on");
        check_eq!(
            device.get(reg::INTERRUPT_STATUS),
            2,
            "{what}: interrupt status"
        );
        works(device)?;
    }
    for (what, ahead) in [("index 9 ahead", 9), ("index 32768 ahead", 0x8000)] {
        let queue = Queue::new(RINGS, 8);
        start(device, 0, &queue)?;
        queue.describe(0, &good);
        virtio::store(queue.available + 2, ahead as u16);
        device.notify(0);
        check!(device.is_broken(), "{what}: the device goes on");
        works(device)?;
    }
    // A table, in order, that nobody has agreed on.
    let mut queue = Queue::new(RINGS, 8);
    start(device, 0, &queue)?;
    queue.describe(
        0,
        &Descriptor {
            address: table + 16,
            ..inner
        },
    );
    queue.offer(0);
    device.notify(0);
    check!(
        device.is_broken(),
        "a table not agreed on: the device goes on"
    );
    works(device)?;
    // A head that is no descriptor.
    let mut queue = Queue::new(RINGS, 8);
    start(device, 0, &queue)?;
    queue.offer(8);
    device.notify(0);
    check!(device.is_broken(), "head out of range: the device goes on");
    works(device)?;
    placements(device)?;
    protocol(device)
}

/// A whole life of the device, as a sign that it works.
fn works(device: Device) -> Verdict {
    let mut queue = Queue::new(OTHER, 8);
    start(device, 0, &queue)?;
    let buffer = virtio::page(BUFFER);
    virtio::clear(buffer, 64);
    queue.add(0, buffer, 64, true);
    device.notify(0);
    let back = queue.wait();
    check!(
        back == Some((0, 64)),
        "the device does not come back to life"
    );
    device.set(reg::STATUS, 0);
    check_eq!(device.get(reg::STATUS), 0, "status after a reset");
    Ok(())
}

/// Rings where none can be.
fn placements(device: Device) -> Verdict {
    let end = virtio::end_of_ram();
    let places: [(&str, Misplace); 8] = [
        ("descriptors behind RAM", |q, end| q.descriptors = end),
        ("descriptors misaligned", |q, _| q.descriptors += 4),
        ("available ring in the GIC", |q, _| {
            q.available = 0x0800_0000
        }),
        ("available ring odd", |q, _| q.available += 1),
        ("used ring across the end", |q, end| q.used = end - 8),
        ("used ring at the top of addresses", |q, _| q.used = !3),
        ("a size that is no power of two", |q, _| q.size = 7),
        ("a size that was not offered", |q, _| q.size = 0x8000),
    ];
    for (what, change) in places {
        let mut queue = Queue::new(RINGS, 8);
        change(&mut queue, end);
        check!(device.negotiate(0), "features are refused");
        device.place(0, &queue);
        device.ready();
        check!(device.is_broken(), "{what}: the device goes on");
        works(device)?;
    }
    Ok(())
}

/// Registers in a wrong order.
fn protocol(device: Device) -> Verdict {
    device.set(reg::STATUS, 0);
    device.set(reg::STATUS, 7);
    check!(device.is_broken(), "DRIVER_OK without FEATURES_OK is taken");
    device.set(reg::STATUS, 0);
    device.set(reg::STATUS, 3);
    for half in 0..2 {
        device.set(reg::DRIVER_FEATURES_SEL, half);
        device.set(reg::DRIVER_FEATURES, !0);
    }
    device.set(reg::STATUS, 11);
    check_eq!(
        device.get(reg::STATUS) & 8,
        0,
        "features not offered are taken"
    );
    for queue in [0, 1, 7, 0xffff, u32::MAX] {
        device.notify(queue);
        device.set(reg::QUEUE_SEL, queue);
        device.set(reg::QUEUE_READY, 1);
    }
    works(device)
}

/// A device of a protected VM does not reach what the VM does not share: it stops, and the VM goes on.
pub(crate) fn private() -> Verdict {
    let device = rng()?;
    if device.features() & F_ACCESS_PLATFORM == 0 {
        // An open VM has no private pages.
        return Ok(());
    }
    device.set(reg::STATUS, 0);
    device.set(reg::STATUS, 3);
    device.set(reg::DRIVER_FEATURES_SEL, 1);
    device.set(reg::DRIVER_FEATURES, 1);
    device.set(reg::STATUS, 11);
    check_eq!(
        device.get(reg::STATUS) & 8,
        0,
        "a driver without ACCESS_PLATFORM is taken"
    );
    let private = virtio::private_page();
    virtio::store(private, SECRET);
    let mut queue = Queue::new(RINGS, 8);
    start(device, 0, &queue)?;
    queue.add(0, private, 64, true);
    device.notify(0);
    check!(device.is_broken(), "a private page is written to");
    check_eq!(virtio::load::<u64>(private), SECRET, "the private page");
    works(device)?;
    // The rings themselves.
    let mut queue = Queue::new(RINGS, 8);
    queue.used = private;
    check!(device.negotiate(0), "features are refused");
    device.place(0, &queue);
    device.ready();
    queue.add(0, virtio::page(BUFFER), 64, true);
    device.notify(0);
    check!(device.is_broken(), "a private ring is written to");
    works(device)
}
