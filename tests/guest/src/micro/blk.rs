//! One block of a disk.

use super::meter::Meter;
use crate::blk::{Driver, GOOD, IN, OUT, disk};
use crate::timer::now;
use crate::verdict::{Verdict, check};
use crate::virtio::{self, reg};
use crate::{cpu, gic};

/// Bytes of the block.
const BLOCK: u32 = 4096;
/// Windows, and requests in each. A request takes the time of a host, which has other things to do meanwhile: in the
/// plugin's figure the median of many short windows counts.
const WINDOWS: u64 = 100;
const ROUNDS: u64 = 10;

/// One block, from the request until the guest has it.
pub(super) fn read(meter: &Meter) -> Verdict {
    transfer(meter, IN)
}

/// The same, to the disk.
pub(super) fn write(meter: &Meter) -> Verdict {
    transfer(meter, OUT)
}

/// Requests one by one: made available and notified, its interrupt taken and acknowledged, its status read.
///
/// The guest is awake meanwhile, and how long a disk takes is chance: the loop in which it waits is left out of the
/// ticks.
fn transfer(meter: &Meter, kind: u32) -> Verdict {
    let Ok(device) = disk() else {
        meter.absent("the VM has no disk");
        return Ok(());
    };
    let mut driver = Driver::start(device)?;
    let intid = device.intid;
    gic::set_edge(intid, true);
    gic::route(intid, cpu::mpidr());
    gic::enable(intid);
    let mut all = true;
    meter.latencies(WINDOWS, ROUNDS, || {
        let seen = gic::count(0, intid);
        let begin = now();
        driver.offer(0, kind, 0, BLOCK);
        device.notify(0);
        let waited = gic::spin(0, intid, seen);
        device.set(reg::INTERRUPT_ACK, 1);
        all &= driver.queue.take().is_some() && virtio::load::<u8>(Driver::status(0)) == GOOD;
        now() - begin - waited
    });
    gic::disable(intid);
    device.set(reg::STATUS, 0);
    check!(all, "a request failed, or its interrupt came too early");
    Ok(())
}
