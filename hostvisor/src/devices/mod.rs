//! The devices of one VM and where they lie in its address space.
//!
//! Decoding an IPA, and carrying an access to the device behind it, are separate: the interrupt
//! controller has a lock of its own. Everything here is driven by guests: accesses that mean nothing
//! read as zero and are ignored.

pub mod map;
mod pl011;
mod pl031;

pub use pl011::Pl011;
pub use pl031::Pl031;

/// The device that an IPA belongs to, and the offset in it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Target {
    /// Distributor or a redistributor: [`crate::vgic::Vgic`] takes the IPA itself.
    Gic,
    /// PL011.
    Uart(u64),
    /// PL031.
    Rtc(u64),
    /// A virtio-mmio slot, whether or not a device is in it.
    Virtio {
        /// From 0.
        slot: u32,
        /// In the slot.
        offset: u64,
    },
}

/// Decodes an access of `size` bytes at `ipa`. `None`: nobody is there, or the access crosses the
/// device's end.
#[must_use]
pub const fn decode(ipa: u64, size: u64) -> Option<Target> {
    if map::within(ipa, size, map::UART_BASE, map::UART_SIZE) {
        Some(Target::Uart(ipa - map::UART_BASE))
    } else if map::within(ipa, size, map::GICD_BASE, map::GICD_SIZE)
        || map::within(ipa, size, map::GICR_BASE, map::GICR_SIZE)
    {
        Some(Target::Gic)
    } else if map::within(ipa, size, map::RTC_BASE, map::RTC_SIZE) {
        Some(Target::Rtc(ipa - map::RTC_BASE))
    } else if map::within(
        ipa,
        size,
        map::VIRTIO_BASE,
        map::VIRTIO_STRIDE * map::VIRTIO_SLOTS as u64,
    ) {
        let offset = ipa - map::VIRTIO_BASE;
        Some(Target::Virtio {
            slot: (offset / map::VIRTIO_STRIDE) as u32,
            offset: offset % map::VIRTIO_STRIDE,
        })
    } else {
        None
    }
}

/// INTID of an interrupt line that changed. What it is by now says [`Devices::level`]: another CPU may have changed it
/// again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub struct Line(pub u32);

/// What a write had as effect outside the devices.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[must_use]
pub struct Written {
    /// A byte for the console.
    pub output: Option<u8>,
    /// A line that changed.
    pub line: Option<Line>,
}

/// A device's line as last reported, so that only changes cost a visit to the interrupt controller.
#[derive(Clone, Copy, Debug)]
struct Wire {
    intid: u32,
    level: bool,
}

impl Wire {
    const fn follow(&mut self, level: bool) -> Option<Line> {
        if level == self.level {
            return None;
        }
        self.level = level;
        Some(Line(self.intid))
    }
}

/// The devices of one VM that are not the interrupt controller. Plain data: the caller locks it.
#[derive(Debug)]
pub struct Devices {
    uart: Pl011,
    uart_wire: Wire,
    rtc: Pl031,
    rtc_wire: Wire,
}

impl Devices {
    /// Devices as after reset. `input_backlog`: bytes of console input kept until the guest reads them.
    #[must_use]
    pub fn new(input_backlog: usize) -> Self {
        Self {
            uart: Pl011::new(input_backlog),
            uart_wire: Wire {
                intid: map::UART_INTID,
                level: false,
            },
            rtc: Pl031::new(),
            rtc_wire: Wire {
                intid: map::RTC_INTID,
                level: false,
            },
        }
    }

    /// Reads `size` bytes; `now` is the wall clock in seconds. [`Target::Gic`] is not served here.
    pub fn read(&mut self, target: Target, size: u64, now: u64) -> (u64, Option<Line>) {
        match target {
            Target::Uart(offset) => {
                let value = self.uart.read(offset, size);
                (value, self.uart_wire.follow(self.uart.irq_level()))
            }
            Target::Rtc(offset) => {
                let value = self.rtc.read(offset, size, now);
                (value, self.rtc_wire.follow(self.rtc.irq_level()))
            }
            Target::Gic | Target::Virtio { .. } => (0, None),
        }
    }

    /// Writes `size` bytes; `now` is the wall clock in seconds. [`Target::Gic`] is not served here.
    pub fn write(&mut self, target: Target, size: u64, value: u64, now: u64) -> Written {
        match target {
            Target::Uart(offset) => {
                let output = self.uart.write(offset, size, value);
                Written {
                    output,
                    line: self.uart_wire.follow(self.uart.irq_level()),
                }
            }
            Target::Rtc(offset) => {
                self.rtc.write(offset, size, value, now);
                Written {
                    output: None,
                    line: self.rtc_wire.follow(self.rtc.irq_level()),
                }
            }
            Target::Gic | Target::Virtio { .. } => Written::default(),
        }
    }

    /// Gives the guest a byte of console input. False if the backlog is full and it was not taken.
    #[must_use]
    pub fn push_input(&mut self, byte: u8) -> (bool, Option<Line>) {
        let taken = self.uart.push_input(byte);
        (taken, self.uart_wire.follow(self.uart.irq_level()))
    }

    /// Lets the RTC's alarm ring if it is due.
    pub fn tick(&mut self, now: u64) -> Option<Line> {
        self.rtc.tick(now);
        self.rtc_wire.follow(self.rtc.irq_level())
    }

    /// The level of a line, as last reported.
    #[must_use]
    pub fn level(&self, line: Line) -> bool {
        let wires = [self.uart_wire, self.rtc_wire];
        wires.iter().any(|wire| wire.intid == line.0 && wire.level)
    }

    /// When the RTC's alarm is due, on the same clock as `now`.
    #[must_use]
    pub const fn next_alarm(&self) -> Option<u64> {
        self.rtc.next_alarm()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_device_is_found_at_its_first_and_last_word_and_not_across_its_end() {
        assert_eq!(decode(map::UART_BASE, 4), Some(Target::Uart(0)));
        assert_eq!(decode(map::UART_BASE + 0xffc, 4), Some(Target::Uart(0xffc)));
        assert_eq!(decode(map::UART_BASE + 0xffe, 4), None);
        assert_eq!(decode(map::RTC_BASE, 4), Some(Target::Rtc(0)));
        assert_eq!(decode(map::GICD_BASE, 4), Some(Target::Gic));
        assert_eq!(decode(map::GICD_BASE - 4, 4), None);
        assert_eq!(
            decode(map::GICR_BASE + map::GICR_SIZE - 8, 8),
            Some(Target::Gic)
        );
        assert_eq!(
            decode(map::VIRTIO_BASE + 0x204, 4),
            Some(Target::Virtio { slot: 1, offset: 4 })
        );
        assert_eq!(decode(u64::MAX, 8), None);
        assert_eq!(decode(0, 4), None);
    }

    #[test]
    fn a_line_is_reported_once_when_it_changes() {
        let mut devices = Devices::new(64);
        // IMSC: receive and receive timeout.
        let written = devices.write(Target::Uart(0x38), 4, 0x50, 0);
        assert_eq!(written, Written::default());
        let line = Line(map::UART_INTID);
        assert_eq!(devices.push_input(b'a'), (true, Some(line)));
        assert!(devices.level(line));
        assert_eq!(devices.push_input(b'b'), (true, None));
        assert_eq!(devices.read(Target::Uart(0), 4, 0), (u64::from(b'a'), None));
        assert_eq!(
            devices.read(Target::Uart(0), 4, 0),
            (u64::from(b'b'), Some(line))
        );
        assert!(!devices.level(line));
    }

    /// Who empties the UART, and who gives it the next byte, may take their news to the vGIC in either order.
    #[test]
    fn news_of_a_line_that_comes_late_is_not_old() {
        let mut devices = Devices::new(64);
        let _ = devices.write(Target::Uart(0x38), 4, 0x50, 0);
        let (_, first) = devices.push_input(b'a');
        assert!(first.is_some());
        let (_, low) = devices.read(Target::Uart(0), 4, 0);
        let (_, high) = devices.push_input(b'b');
        let mut level = None;
        for line in [high, low].into_iter().flatten() {
            level = Some(devices.level(line));
        }
        assert_eq!(level, Some(true));
    }
}
