//! One packet: out, and from one interface to another of the VM's.

use super::meter::Meter;
use crate::net::{BUFFER, HEADER, Interface, MRG_RXBUF, TRANSMIT, start};
use crate::verdict::{Verdict, check};
use crate::virtio::{self, reg};
use crate::{cpu, gic};

/// Bytes of the packet: Ethernet's most.
const LEN: u64 = 1514;
/// VIRTQ_AVAIL_F_NO_INTERRUPT: what is sent is looked after when there is more to send, as Linux does.
const NO_INTERRUPT: u16 = 1;

/// The first interface, with a packet for `to`. `None`, and said so, if the VM has no network.
fn sender(meter: &Meter) -> Result<Option<Interface>, crate::verdict::Problem> {
    let Ok(one) = start(0, MRG_RXBUF) else {
        meter.absent("the VM has no network device");
        return Ok(None);
    };
    virtio::store(one.transmit.available, NO_INTERRUPT);
    Ok(Some(one))
}

/// Makes a packet available and notifies; true if the device is done with it.
fn send(one: &mut Interface) -> bool {
    one.transmit.add(0, one.frame, (HEADER + LEN) as u32, false);
    one.device.notify(TRANSMIT);
    one.transmit.take().is_some()
}

/// A packet for nobody: out of the VM and through the switch.
pub(super) fn out(meter: &Meter) -> Verdict {
    let Some(mut one) = sender(meter)? else {
        return Ok(());
    };
    one.compose([2, 0, 0, 0, 0, 1], one.mac, LEN, 1);
    let mut all = true;
    meter.rounds(|| all &= send(&mut one));
    one.device.set(reg::STATUS, 0);
    check!(all, "a packet was not sent when the notification returned");
    Ok(())
}

/// A packet for the other interface, whose interrupt is taken: out and in.
pub(super) fn through(meter: &Meter) -> Verdict {
    let Some(mut one) = sender(meter)? else {
        return Ok(());
    };
    let mut other = start(1, MRG_RXBUF)?;
    other.offer_all();
    one.compose(other.mac, one.mac, LEN, 1);
    let intid = other.device.intid;
    gic::set_edge(intid, true);
    gic::route(intid, cpu::mpidr());
    gic::enable(intid);
    let mut all = true;
    meter.rounds(|| {
        let before = gic::count(0, intid);
        all &= send(&mut one);
        while gic::count(0, intid) == before {}
        other.device.set(reg::INTERRUPT_ACK, 1);
        match other.receive.take() {
            Some((head, _)) => {
                let at = other.buffer(head as u16);
                other.receive.add(head as u16, at, BUFFER as u32, true);
            }
            None => all = false,
        }
    });
    gic::disable(intid);
    one.device.set(reg::STATUS, 0);
    other.device.set(reg::STATUS, 0);
    check!(all, "a packet did not come with its interrupt");
    Ok(())
}
