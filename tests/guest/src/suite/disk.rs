//! A virtio disk: that it works, that a reset ends all that is under way, and that nothing this driver does to it
//! harms anything but it.

use crate::blk::{
    DATA, DISCARD, Driver, F_DISCARD, F_WRITE_ZEROES, FAILED, FLUSH, FRAMING, GET_ID, GOOD, IN,
    OUT, REQUESTS, UNSUPPORTED, WRITE_ZEROES, disk,
};
use crate::console::println;
use crate::timer;
use crate::verdict::{Verdict, check, check_eq};
use crate::virtio::{self, Descriptor, F_ACCESS_PLATFORM, reg};

/// Sectors of a request: a page.
const SECTORS: u64 = 8;
const PAGE: u64 = 4096;
/// What [`works`] leaves on the disk.
const LAST_ROUND: u64 = 5;
/// `virtio_blk_discard_write_zeroes.flags` (virtio 1.2 §5.2.6).
const UNMAP: u32 = 1;
/// `virtio_blk_config` (§5.2.4): max_discard_sectors, max_write_zeroes_sectors.
const MAX_DISCARD: u64 = 36;
const MAX_WRITE_ZEROES: u64 = 48;
/// What nobody writes.
const UNTOUCHED: u64 = 0x5afe_5afe_5afe_5afe;

/// Word `n` of what sector `sector` is to hold in `round`.
fn word(round: u64, sector: u64, n: u64) -> u64 {
    (round << 48 | sector << 16 | n).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

fn fill(at: u64, round: u64, sector: u64) {
    for n in 0..PAGE / 8 {
        virtio::store(at + 8 * n, word(round, sector, n));
    }
}

fn holds(at: u64, round: u64, sector: u64) -> bool {
    (0..PAGE / 8).all(|n| virtio::load::<u64>(at + 8 * n) == word(round, sector, n))
}

/// What is written is read back, many requests at a time, in every round something else.
pub(crate) fn works() -> Verdict {
    let mut driver = Driver::start(disk()?)?;
    for round in 1..=LAST_ROUND {
        for kind in [OUT, IN] {
            for index in 0..REQUESTS {
                let sector = SECTORS * u64::from(index);
                if kind == OUT {
                    fill(Driver::data(index), round, sector);
                } else {
                    virtio::clear(Driver::data(index), PAGE);
                }
                driver.offer(index, kind, sector, PAGE as u32);
            }
            driver.device.notify(0);
            for _ in 0..REQUESTS {
                check!(
                    driver.queue.wait().is_some(),
                    "a request does not come back"
                );
            }
            for index in 0..REQUESTS {
                check_eq!(virtio::load::<u8>(Driver::status(index)), GOOD, "status");
            }
        }
        for index in 0..REQUESTS {
            let sector = SECTORS * u64::from(index);
            check!(
                holds(Driver::data(index), round, sector),
                "other data is read"
            );
        }
        check_eq!(driver.request(FLUSH, 0, 0)?, GOOD, "flush");
    }
    check_eq!(driver.request(GET_ID, 0, 20)?, GOOD, "serial");
    check!(virtio::load::<u8>(Driver::data(0)) != 0, "no serial");
    driver.device.set(reg::STATUS, 0);
    Ok(())
}

/// What is zeroed reads as zeros, what is discarded is gone or not, and the sectors beside it are as they were.
/// Afterwards the disk's first pages are what [`works`] wrote last, but for pages 2 to 4: zeros.
pub(crate) fn zeroes() -> Verdict {
    let device = disk()?;
    let offered = device.features() & (F_DISCARD | F_WRITE_ZEROES);
    check_eq!(offered, F_DISCARD | F_WRITE_ZEROES, "features");
    for (kind, flags) in [(DISCARD, 0), (WRITE_ZEROES, UNMAP), (WRITE_ZEROES, 0)] {
        works()?;
        let mut driver = Driver::start(device)?;
        let (first, pages) = (2, 3);
        let sectors = SECTORS as u32 * u32::from(pages);
        let answer = driver.range(kind, SECTORS * u64::from(first), sectors, flags)?;
        check_eq!(answer, GOOD, "status");
        for index in 0..REQUESTS {
            let (at, sector) = (Driver::data(0), SECTORS * u64::from(index));
            // A read that writes nothing shall not pass for the page before.
            fill(at, 0, sector);
            check_eq!(driver.request(IN, sector, PAGE as u32)?, GOOD, "read");
            let inside = (first..first + pages).contains(&index);
            let zero = (0..PAGE / 8).all(|n| virtio::load::<u64>(at + 8 * n) == 0);
            // A discarded sector may read as anything (virtio 1.2 §5.2.6.2).
            check!(
                if inside {
                    zero || kind == DISCARD
                } else {
                    holds(at, LAST_ROUND, sector)
                },
                "kind {kind}, flags {flags}: page {index} is wrong"
            );
        }
        check_eq!(driver.request(FLUSH, 0, 0)?, GOOD, "flush");
    }
    let mut driver = Driver::start(device)?;
    let end = u64::from(device.get(reg::CONFIG)) | u64::from(device.get(reg::CONFIG + 4)) << 32;
    for (kind, most) in [(DISCARD, MAX_DISCARD), (WRITE_ZEROES, MAX_WRITE_ZEROES)] {
        let most = device.get(reg::CONFIG + most);
        for (sector, sectors, flags, status) in [
            (end, 1, 0, FAILED),
            (end - 1, 2, 0, FAILED),
            (u64::MAX, 2, 0, FAILED),
            (0, most.saturating_add(1), 0, FAILED),
            (0, u32::MAX, 0, FAILED),
            (0, 1, 2, UNSUPPORTED),
            (0, 1, u32::MAX, UNSUPPORTED),
        ] {
            // A device without a limit has nothing above it.
            if sectors == u32::MAX && most == u32::MAX {
                continue;
            }
            let answer = driver.range(kind, sector, sectors, flags)?;
            check_eq!(answer, status, "status of a range that makes no sense");
        }
    }
    check_eq!(
        driver.range(DISCARD, 0, 1, UNMAP)?,
        UNSUPPORTED,
        "unmap in a discard"
    );
    check_eq!(driver.request(IN, 0, PAGE as u32)?, GOOD, "read");
    check!(
        holds(Driver::data(0), LAST_ROUND, 0),
        "what was refused was done"
    );
    Ok(())
}

/// On a disk whose backing file has no room: writes fail, reads and the device go on.
pub(crate) fn full() -> Verdict {
    let mut driver = Driver::start(disk()?)?;
    for sector in [0, SECTORS, SECTORS * 100] {
        check_eq!(driver.request(OUT, sector, 4096)?, FAILED, "write");
        check_eq!(driver.request(IN, sector, 4096)?, GOOD, "read");
    }
    check!(!driver.device.is_broken(), "the device has stopped");
    Ok(())
}

/// The machine's disk fails while this goes on, in whatever way: what is asked for past that is an error in the end,
/// and the device goes on.
pub(crate) fn fails() -> Verdict {
    let mut driver = Driver::start(disk()?)?;
    let last = u64::from(driver.device.get(reg::CONFIG)) - SECTORS;
    check_eq!(driver.request(OUT, last, 4096)?, GOOD, "write");
    println!("guest: disk works");
    let deadline = timer::now() + 120 * timer::frequency();
    loop {
        driver.offer(0, IN, last, 4096);
        driver.device.notify(0);
        while driver.queue.wait().is_none() {
            check!(timer::now() < deadline, "a request does not come back");
        }
        match virtio::load(Driver::status(0)) {
            GOOD => check!(timer::now() < deadline, "nothing fails"),
            status => {
                check_eq!(status, FAILED, "status");
                break;
            }
        }
    }
    check!(!driver.device.is_broken(), "the device has stopped");
    println!("guest: disk fails");
    let status = driver.request(IN, 0, 4096)?;
    println!("guest: its first sector has status {status}");
    Ok(())
}

/// A reset comes back when the machine's disk is off this VM's memory: nothing is written there any more.
pub(crate) fn reset() -> Verdict {
    let device = disk()?;
    for round in 0..40 {
        let mut driver = Driver::start(device)?;
        for index in 0..REQUESTS {
            virtio::clear(Driver::data(index), PAGE);
            driver.offer(index, IN, SECTORS * u64::from(index), PAGE as u32);
        }
        device.notify(0);
        device.set(reg::STATUS, 0);
        check_eq!(device.get(reg::STATUS), 0, "status after a reset");
        for index in 0..REQUESTS {
            for n in 0..PAGE / 8 {
                virtio::store(Driver::data(index) + 8 * n, UNTOUCHED);
            }
        }
        let deadline = timer::now() + timer::frequency() / 100;
        while timer::now() < deadline {}
        let clean = |index| {
            let at = |n| virtio::load::<u64>(Driver::data(index) + 8 * n);
            (0..PAGE / 8).all(|n| at(n) == UNTOUCHED)
        };
        check!(
            (0..REQUESTS).all(clean),
            "round {round}: written to after the reset"
        );
    }
    works()
}

/// Requests that make no sense get a status, or break the device; afterwards it works.
pub(crate) fn hostile() -> Verdict {
    let device = disk()?;
    let mut driver = Driver::start(device)?;
    for (kind, sector, bytes, status) in [
        (IN, u64::MAX, 512, FAILED),
        (OUT, u64::MAX, 512, FAILED),
        (IN, u64::MAX - 1, 1024, FAILED),
        (OUT, 1 << 55, 512, FAILED),
        (IN, 0, 100, FAILED),
        (IN, 0, 0, FAILED),
        (OUT, 0, 0, FAILED),
        (77, 0, 512, UNSUPPORTED),
        (u32::MAX, 0, 512, UNSUPPORTED),
        (DISCARD, 0, 512, FAILED),
        (WRITE_ZEROES, 0, 15, FAILED),
    ] {
        let answer = driver.request(kind, sector, bytes)?;
        check!(
            answer == status,
            "request {kind} of {bytes} bytes at {sector:#x}: status {answer}"
        );
    }
    let good = Descriptor {
        address: Driver::header(0),
        len: 16,
        flags: 1,
        next: 1,
    };
    let status = Descriptor {
        address: Driver::status(0),
        len: 1,
        flags: 2,
        next: 0,
    };
    let chains = [
        ("no header", [Descriptor { len: 15, ..good }, status]),
        ("no status", [Descriptor { flags: 0, ..good }, status]),
        (
            "a status outside RAM",
            [
                good,
                Descriptor {
                    address: virtio::end_of_ram(),
                    ..status
                },
            ],
        ),
        ("a loop", [good, Descriptor { flags: 3, ..status }]),
        (
            "data in the distributor",
            [
                good,
                Descriptor {
                    address: 0x0800_0000,
                    len: 513,
                    ..status
                },
            ],
        ),
    ];
    for (what, chain) in chains {
        driver = Driver::start(device)?;
        driver.queue.describe(0, &chain[0]);
        driver.queue.describe(1, &chain[1]);
        driver.queue.offer(0);
        device.notify(0);
        check!(device.is_broken(), "{what}: the device goes on");
    }
    // The whole of RAM and more in one request, of descriptors that are all alike.
    driver = Driver::start(device)?;
    let table = virtio::page(FRAMING);
    let entries = 32;
    for n in 0..entries {
        let last = n + 1 == entries;
        let descriptor = Descriptor {
            address: if n == 0 {
                virtio::page(DATA)
            } else {
                virtio::page(DATA + 1)
            },
            len: if n == 0 { 16 } else { 4096 },
            flags: u16::from(!last) | u16::from(n != 0) << 1,
            next: n + 1,
        };
        descriptor.write(table + 16 * u64::from(n));
    }
    virtio::clear(virtio::page(DATA), 16);
    let whole = Descriptor {
        address: table,
        len: 16 * u32::from(entries),
        flags: 4,
        next: 0,
    };
    for index in 0..16 {
        driver.queue.describe(index, &whole);
        driver.queue.offer(index);
    }
    device.notify(0);
    // 31 pages less a byte are no sectors.
    for _ in 0..16 {
        check!(
            driver.queue.wait().is_some(),
            "an odd request does not come back"
        );
    }
    works()
}

/// The machine's disk neither reads nor writes what a protected VM does not share.
pub(crate) fn private() -> Verdict {
    let device = disk()?;
    if device.features() & F_ACCESS_PLATFORM == 0 {
        // An open VM has no private pages.
        return Ok(());
    }
    let private = virtio::private_page();
    virtio::store(private, UNTOUCHED);
    for (what, kind, data) in [
        ("read into a private page", IN, private),
        ("read across into a private page", IN, private - 512),
        ("write from a private page", OUT, private),
    ] {
        let mut driver = Driver::start(device)?;
        driver.offer_at(0, kind, 0, data, 1024);
        device.notify(0);
        check!(device.is_broken(), "{what}: the device goes on");
        device.set(reg::STATUS, 0);
        check_eq!(virtio::load::<u64>(private), UNTOUCHED, "{what}");
    }
    works()
}
