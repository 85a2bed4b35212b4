//! Arm PrimeCell UART PL011 r1p5 (DDI 0183).
//!
//! Transmission takes no time: the transmit FIFO is always empty, and each byte written raises the
//! transmit interrupt, as the FIFO passing its trigger level would. Reception has a 32-byte FIFO (r1p5's
//! depth) with a longer backlog of the host's behind it, which refills the FIFO as the guest reads.
//! UARTEN, TXE and RXE do not gate: bare-metal programs on QEMU's `virt` often leave them alone.

use alloc::collections::VecDeque;

const DR: u64 = 0x000;
const FR: u64 = 0x018;
const ILPR: u64 = 0x020;
const IBRD: u64 = 0x024;
const FBRD: u64 = 0x028;
const LCR_H: u64 = 0x02c;
const CR: u64 = 0x030;
const IFLS: u64 = 0x034;
const IMSC: u64 = 0x038;
const RIS: u64 = 0x03c;
const MIS: u64 = 0x040;
const ICR: u64 = 0x044;
const DMACR: u64 = 0x048;
const ID_FIRST: u64 = 0xfe0;
/// UARTPeriphID0–3 (revision 3 is r1p5) and UARTPCellID0–3.
const IDS: [u8; 8] = [0x11, 0x10, 0x34, 0x00, 0x0d, 0xf0, 0x05, 0xb1];

/// FR: clear to send, data set ready, carrier detect: somebody is always there.
const FR_MODEM: u16 = 0b111;
const FR_RXFE: u16 = 1 << 4;
const FR_RXFF: u16 = 1 << 6;
const FR_TXFE: u16 = 1 << 7;
const LCR_H_FEN: u16 = 1 << 4;
const CR_LBE: u16 = 1 << 7;
/// CR after reset: TXE and RXE.
const CR_RESET: u16 = 0x0300;
/// IFLS after reset: both triggers at half.
const IFLS_RESET: u16 = 0x12;

const INT_RX: u16 = 1 << 4;
const INT_TX: u16 = 1 << 5;
const INT_RX_TIMEOUT: u16 = 1 << 6;
const INT_ALL: u16 = 0x7ff;

const FIFO_DEPTH: usize = 32;

/// One UART. No allocation after [`Pl011::new`].
#[derive(Debug)]
pub struct Pl011 {
    /// The receive FIFO, and behind its depth the backlog.
    input: VecDeque<u8>,
    backlog: usize,
    ris: u16,
    imsc: u16,
    lcr_h: u16,
    cr: u16,
    ifls: u16,
    ilpr: u16,
    ibrd: u16,
    fbrd: u16,
    dmacr: u16,
}

impl Pl011 {
    /// A UART as after reset, which keeps `backlog` bytes of input beyond its FIFO.
    #[must_use]
    pub fn new(backlog: usize) -> Self {
        let capacity = backlog.saturating_add(FIFO_DEPTH);
        Self {
            input: VecDeque::with_capacity(capacity),
            backlog: capacity,
            ris: 0,
            imsc: 0,
            lcr_h: 0,
            cr: CR_RESET,
            ifls: IFLS_RESET,
            ilpr: 0,
            ibrd: 0,
            fbrd: 0,
            dmacr: 0,
        }
    }

    /// A guest's read of the register at `offset`; `size` is 1, 2 or 4 bytes.
    pub fn read(&mut self, offset: u64, size: u64) -> u64 {
        if !matches!(size, 1 | 2 | 4) {
            return 0;
        }
        let value = match offset {
            DR => self.receive(),
            FR => self.flags(),
            ILPR => self.ilpr,
            IBRD => self.ibrd,
            FBRD => self.fbrd,
            LCR_H => self.lcr_h,
            CR => self.cr,
            IFLS => self.ifls,
            IMSC => self.imsc,
            RIS => self.ris,
            MIS => self.ris & self.imsc,
            DMACR => self.dmacr,
            ID_FIRST..0x1000 if offset.is_multiple_of(4) => IDS
                .get(((offset - ID_FIRST) / 4) as usize)
                .copied()
                .unwrap_or(0)
                .into(),
            // RSR: no errors happen. ICR is write-only.
            _ => 0,
        };
        u64::from(value) & (u64::MAX >> (64 - 8 * size))
    }

    /// A guest's write to the register at `offset`; `size` is 1, 2 or 4 bytes. Returns the byte that
    /// it transmitted.
    pub fn write(&mut self, offset: u64, size: u64, value: u64) -> Option<u8> {
        if !matches!(size, 1 | 2 | 4) {
            return None;
        }
        let value = (value & (u64::MAX >> (64 - 8 * size))) as u16;
        match offset {
            DR => {
                self.ris |= INT_TX;
                let byte = value as u8;
                if self.cr & CR_LBE == 0 {
                    return Some(byte);
                }
                // Looped back. What does not fit is lost, as in an overrun.
                let _ = self.push_input(byte);
            }
            ILPR => self.ilpr = value & 0xff,
            IBRD => self.ibrd = value,
            FBRD => self.fbrd = value & 0x3f,
            LCR_H => {
                self.lcr_h = value & 0xff;
                self.arrived();
            }
            CR => self.cr = value & 0xff87,
            IFLS => {
                self.ifls = value & 0x3f;
                self.arrived();
            }
            IMSC => self.imsc = value & INT_ALL,
            ICR => self.ris &= !value,
            DMACR => self.dmacr = value & 0x7,
            // RSR: a write clears errors, of which there are none.
            _ => {}
        }
        None
    }

    /// Gives the guest a byte. False if there is no room and it was not taken.
    #[must_use]
    pub fn push_input(&mut self, byte: u8) -> bool {
        if self.input.len() >= self.backlog {
            return false;
        }
        self.input.push_back(byte);
        self.arrived();
        true
    }

    /// The level of UARTINTR.
    #[must_use]
    pub const fn irq_level(&self) -> bool {
        self.ris & self.imsc != 0
    }

    /// Bytes in the receive FIFO, and its depth: with FEN off it is one register.
    fn fifo(&self) -> (usize, usize) {
        let depth = if self.lcr_h & LCR_H_FEN != 0 {
            FIFO_DEPTH
        } else {
            1
        };
        (self.input.len().min(depth), depth)
    }

    /// Bytes in the receive FIFO at which the receive interrupt comes (IFLS.RXIFLSEL).
    fn trigger(&self) -> usize {
        if self.lcr_h & LCR_H_FEN == 0 {
            return 1;
        }
        match self.ifls >> 3 {
            0 => FIFO_DEPTH / 8,
            1 => FIFO_DEPTH / 4,
            3 => FIFO_DEPTH * 3 / 4,
            4 => FIFO_DEPTH * 7 / 8,
            _ => FIFO_DEPTH / 2,
        }
    }

    /// Raises what the bytes in the FIFO call for: the receive interrupt from the trigger level up,
    /// below it the receive timeout, whose 32 bit times are taken to have passed.
    fn arrived(&mut self) {
        let (level, _) = self.fifo();
        if level >= self.trigger() {
            self.ris |= INT_RX;
        } else if level > 0 {
            self.ris |= INT_RX_TIMEOUT;
        }
    }

    fn receive(&mut self) -> u16 {
        let byte = self.input.pop_front().unwrap_or(0);
        let (level, _) = self.fifo();
        if level < self.trigger() {
            self.ris &= !INT_RX;
        }
        if level == 0 {
            self.ris &= !INT_RX_TIMEOUT;
        }
        self.arrived();
        byte.into()
    }

    fn flags(&self) -> u16 {
        let mut flags = FR_TXFE | FR_MODEM;
        let (level, depth) = self.fifo();
        if level == 0 {
            flags |= FR_RXFE;
        }
        if level == depth {
            flags |= FR_RXFF;
        }
        flags
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn with_fifo() -> Pl011 {
        let mut uart = Pl011::new(100);
        uart.write(LCR_H, 4, 0x70);
        uart.write(IMSC, 4, u64::from(INT_RX | INT_RX_TIMEOUT));
        uart
    }

    #[test]
    fn linux_recognises_the_cell() {
        let mut uart = Pl011::new(0);
        let id = |uart: &mut Pl011, first: u64| {
            (0..4).fold(0, |id, n| id | uart.read(first + 4 * n, 4) << (8 * n))
        };
        // drivers/tty/serial/amba-pl011.c: id 0x00041011, mask 0x000fffff; AMBA_CID.
        assert_eq!(id(&mut uart, 0xfe0) & 0x000f_ffff, 0x0004_1011);
        assert_eq!(id(&mut uart, 0xff0), 0xb105_f00d);
        // Revision 3 and up has 32-byte FIFOs.
        assert_eq!(id(&mut uart, 0xfe0) >> 20 & 0xf, 3);
    }

    #[test]
    fn each_byte_written_comes_out_and_asks_for_more() {
        let mut uart = Pl011::new(0);
        assert!(!uart.irq_level());
        uart.write(IMSC, 2, u64::from(INT_TX));
        assert!(
            !uart.irq_level(),
            "the transmit interrupt is a transition: not before the first byte"
        );
        assert_eq!(uart.write(DR, 1, 0x141), Some(b'A'));
        assert!(uart.irq_level());
        uart.write(ICR, 2, u64::from(INT_TX));
        assert!(!uart.irq_level());
        assert_eq!(uart.write(DR, 4, u64::from(b'B')), Some(b'B'));
        assert!(uart.irq_level());
        assert_eq!(
            uart.read(FR, 2) as u16 & (FR_TXFE | 1 << 5 | 1 << 3),
            FR_TXFE
        );
    }

    #[test]
    fn one_byte_interrupts_by_timeout_and_a_full_fifo_by_level() {
        let mut uart = with_fifo();
        assert!(uart.push_input(1));
        assert_eq!(uart.read(MIS, 4) as u16, INT_RX_TIMEOUT);
        for n in 2..=16 {
            assert!(uart.push_input(n));
        }
        assert_eq!(uart.read(MIS, 4) as u16 & INT_RX, INT_RX);
        for n in 1..=16 {
            assert!(uart.irq_level());
            assert_eq!(uart.read(DR, 4), n);
        }
        assert!(!uart.irq_level());
        assert_eq!(uart.read(FR, 4) as u16 & FR_RXFE, FR_RXFE);
    }

    #[test]
    fn the_backlog_is_bounded_and_keeps_order_across_the_fifo() {
        let mut uart = with_fifo();
        let taken = (0..200u8).take_while(|&n| uart.push_input(n)).count();
        assert_eq!(taken, 132);
        assert_eq!(uart.read(FR, 4) as u16 & FR_RXFF, FR_RXFF);
        for n in 0..132 {
            assert_eq!(uart.read(DR, 4), n);
        }
        assert!(!uart.irq_level());
    }

    #[test]
    fn clearing_the_interrupts_at_start_up_does_not_lose_later_input() {
        let mut uart = with_fifo();
        assert!(uart.push_input(1));
        uart.write(ICR, 4, u64::from(INT_ALL));
        assert!(!uart.irq_level());
        assert!(uart.push_input(2));
        assert!(uart.irq_level());
    }

    proptest! {
        #[test]
        fn unread_input_after_an_arrival_or_a_read_always_interrupts(
            ops in prop::collection::vec((0u8..3, 0u64..0x40, any::<u16>()), 1..200),
        ) {
            let mut uart = with_fifo();
            for (op, ifls, value) in ops {
                match op {
                    0 => { let _ = uart.push_input(value as u8); }
                    1 => { uart.read(DR, 4); }
                    _ => { uart.write(if value & 1 == 0 { IFLS } else { LCR_H }, 4, ifls); }
                }
                prop_assert_eq!(uart.irq_level(), !uart.input.is_empty());
            }
        }

        #[test]
        fn wild_accesses_are_harmless(
            ops in prop::collection::vec((any::<bool>(), 0u64..0x1010, 0u64..9, any::<u64>()), 1..200),
        ) {
            let mut uart = Pl011::new(8);
            for (write, offset, size, value) in ops {
                if write {
                    uart.write(offset, size, value);
                } else {
                    uart.read(offset, size);
                }
                prop_assert!(uart.input.len() <= 8 + FIFO_DEPTH);
            }
        }
    }
}
