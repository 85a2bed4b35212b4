//! A small virtio-net driver (virtio 1.2 §5.1) for a VM with two interfaces on one switch.

use crate::verdict::{Problem, Verdict, check, check_eq, fail};
use crate::virtio::{self, Device, Queue, reg};

const NET: u32 = 1;
/// VIRTIO_NET_F_CSUM, _HOST_TSO4, _MRG_RXBUF.
pub(crate) const OFFLOADS: u64 = 1 | 1 << 11;
pub(crate) const MRG_RXBUF: u64 = 1 << 15;
pub(crate) const RECEIVE: u32 = 0;
pub(crate) const TRANSMIT: u32 = 1;
/// `struct virtio_net_hdr_v1`, and an Ethernet header.
pub(crate) const HEADER: u64 = 12;
pub(crate) const HEAD: u64 = 14;
/// Local experimental EtherType (IEEE 802).
const KIND: [u8; 2] = [0x88, 0xb5];
/// Pages of the arena: from the first on, so many for each interface.
const FIRST: usize = 8;
const PAGES: usize = 5;
/// Bytes of a receive buffer; four of them in two pages.
pub(crate) const BUFFER: u64 = 2048;
const BUFFERS: u16 = 4;

/// An interface whose driver is up.
pub(crate) struct Interface {
    pub(crate) device: Device,
    pub(crate) mac: [u8; 6],
    pub(crate) receive: Queue,
    pub(crate) transmit: Queue,
    /// Receive buffers, and what is sent.
    pub(crate) buffers: u64,
    pub(crate) frame: u64,
}

/// Brings interface `nth` up, without receive buffers.
pub(crate) fn start(nth: usize, features: u64) -> Result<Interface, Problem> {
    let device = virtio::find(NET, nth).ok_or(Problem::Skip("no two network devices"))?;
    let page = FIRST + nth * PAGES;
    let (receive, transmit) = (Queue::new(page, 8), Queue::new(page + 1, 8));
    check!(device.negotiate(features), "features are refused");
    device.place(RECEIVE, &receive);
    device.place(TRANSMIT, &transmit);
    device.ready();
    check!(!device.is_broken(), "the device breaks at DRIVER_OK");
    let [a, b, c, d] = device.get(reg::CONFIG).to_le_bytes();
    let [e, f, ..] = device.get(reg::CONFIG + 4).to_le_bytes();
    Ok(Interface {
        device,
        mac: [a, b, c, d, e, f],
        receive,
        transmit,
        buffers: virtio::page(page + 2),
        frame: virtio::page(page + 4),
    })
}

/// Both interfaces up, with receive buffers.
pub(crate) fn pair(features: u64) -> Result<[Interface; 2], Problem> {
    let (mut one, mut other) = (start(0, features)?, start(1, features)?);
    one.offer_all();
    other.offer_all();
    Ok([one, other])
}

impl Interface {
    /// Where receive buffer `index` is.
    pub(crate) fn buffer(&self, index: u16) -> u64 {
        self.buffers + BUFFER * u64::from(index)
    }

    /// Offers all receive buffers.
    pub(crate) fn offer_all(&mut self) {
        for index in 0..BUFFERS {
            self.receive
                .add(index, self.buffer(index), BUFFER as u32, true);
        }
        self.device.notify(RECEIVE);
    }

    /// Writes a frame of `len` bytes and a header of zeros in front of it.
    pub(crate) fn compose(&self, to: [u8; 6], from: [u8; 6], len: u64, fill: u8) {
        virtio::clear(self.frame, 4096);
        let head = to.into_iter().chain(from).chain(KIND);
        let payload = (HEAD..len).map(|n| fill ^ n as u8);
        for (n, byte) in (0..).zip(head.chain(payload)) {
            virtio::store(self.frame + HEADER + n, byte);
        }
    }

    /// Sends `len` bytes of what was composed, header included, and waits until the device is done with it.
    pub(crate) fn send(&mut self, len: u64) -> Verdict {
        self.transmit.add(0, self.frame, len as u32, false);
        self.device.notify(TRANSMIT);
        let sent = self.transmit.wait();
        check!(sent == Some((0, 0)), "used: {sent:?}");
        Ok(())
    }

    /// Waits for a frame like this one, and offers its buffer again.
    pub(crate) fn expect(&mut self, len: u64, fill: u8) -> Verdict {
        let Some((head, written)) = self.receive.wait() else {
            fail!("no frame of {len} bytes arrives")
        };
        check_eq!(u64::from(written), HEADER + len, "bytes of the frame");
        let at = self.buffer(head as u16);
        check_eq!(virtio::load::<u16>(at + 10), 1, "num_buffers");
        let wrong = (HEAD..len).find(|n| virtio::load::<u8>(at + HEADER + n) != fill ^ *n as u8);
        check!(wrong.is_none(), "a wrong byte: {wrong:?}");
        self.receive.add(head as u16, at, BUFFER as u32, true);
        self.device.notify(RECEIVE);
        Ok(())
    }

    /// No frame has arrived.
    pub(crate) fn expect_nothing(&mut self) -> Verdict {
        check!(self.receive.take().is_none(), "a frame arrives");
        Ok(())
    }
}
