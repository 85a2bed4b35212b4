//! Arm PrimeCell real-time clock PL031 (DDI 0224): seconds since 1970, and an alarm.
//!
//! The device has no clock of its own: the caller says what time it is.

const DR: u64 = 0x000;
const MR: u64 = 0x004;
const LR: u64 = 0x008;
const CR: u64 = 0x00c;
const IMSC: u64 = 0x010;
const RIS: u64 = 0x014;
const MIS: u64 = 0x018;
const ICR: u64 = 0x01c;
const ID_FIRST: u64 = 0xfe0;
/// RTCPeriphID0–3 and RTCPCellID0–3.
const IDS: [u8; 8] = [0x31, 0x10, 0x04, 0x00, 0x0d, 0xf0, 0x05, 0xb1];

/// One clock.
#[derive(Debug, Default)]
pub struct Pl031 {
    /// Guest time less host time, modulo 2^32 seconds.
    offset: u32,
    match_value: u32,
    load_value: u32,
    /// Host time at which guest time reaches `match_value`.
    alarm: Option<u64>,
    raised: bool,
    unmasked: bool,
}

impl Pl031 {
    /// A clock that shows the host's time, with no alarm set.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A guest's 32-bit read of the register at `offset`, at host time `now` in seconds.
    pub fn read(&mut self, offset: u64, size: u64, now: u64) -> u64 {
        if size != 4 {
            return 0;
        }
        self.tick(now);
        match offset {
            DR => self.count(now).into(),
            MR => self.match_value.into(),
            LR => self.load_value.into(),
            // Once started, the clock never stops.
            CR => 1,
            IMSC => self.unmasked.into(),
            RIS => self.raised.into(),
            MIS => self.irq_level().into(),
            ID_FIRST..0x1000 if offset.is_multiple_of(4) => IDS
                .get(((offset - ID_FIRST) / 4) as usize)
                .copied()
                .unwrap_or(0)
                .into(),
            _ => 0,
        }
    }

    /// A guest's 32-bit write to the register at `offset`, at host time `now` in seconds.
    pub fn write(&mut self, offset: u64, size: u64, value: u64, now: u64) {
        if size != 4 {
            return;
        }
        self.tick(now);
        let value = value as u32;
        match offset {
            MR => {
                self.match_value = value;
                self.arm(now);
            }
            LR => {
                self.load_value = value;
                self.offset = value.wrapping_sub(now as u32);
                self.arm(now);
            }
            IMSC => self.unmasked = value & 1 != 0,
            ICR if value & 1 != 0 => self.raised = false,
            _ => {}
        }
    }

    /// Raises the interrupt if the alarm is due at host time `now`.
    pub fn tick(&mut self, now: u64) {
        if self.alarm.is_some_and(|alarm| alarm <= now) {
            self.alarm = None;
            self.raised = true;
        }
    }

    /// The host time at which [`Pl031::tick`] has something to do.
    #[must_use]
    pub const fn next_alarm(&self) -> Option<u64> {
        self.alarm
    }

    /// The level of RTCINTR.
    #[must_use]
    pub const fn irq_level(&self) -> bool {
        self.raised && self.unmasked
    }

    const fn count(&self, now: u64) -> u32 {
        (now as u32).wrapping_add(self.offset)
    }

    /// The clock is 32 bits wide, so that every match value lies ahead.
    fn arm(&mut self, now: u64) {
        self.alarm =
            Some(now.saturating_add(self.match_value.wrapping_sub(self.count(now)).into()));
        self.tick(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn linux_recognises_the_cell() {
        let mut rtc = Pl031::new();
        let id = |rtc: &mut Pl031, first: u64| {
            (0..4).fold(0, |id, n| id | rtc.read(first + 4 * n, 4, 0) << (8 * n))
        };
        // drivers/rtc/rtc-pl031.c: id 0x00041031, mask 0x000fffff; AMBA_CID.
        assert_eq!(id(&mut rtc, 0xfe0) & 0x000f_ffff, 0x0004_1031);
        assert_eq!(id(&mut rtc, 0xff0), 0xb105_f00d);
    }

    #[test]
    fn it_shows_host_time_until_it_is_set() {
        let mut rtc = Pl031::new();
        assert_eq!(rtc.read(DR, 4, 1_700_000_000), 1_700_000_000);
        rtc.write(LR, 4, 5, 1_700_000_000);
        assert_eq!(rtc.read(DR, 4, 1_700_000_007), 12);
        assert_eq!(rtc.read(LR, 4, 1_700_000_007), 5);
    }

    #[test]
    fn the_alarm_rings_once_at_its_second_and_is_cleared_by_icr() {
        let mut rtc = Pl031::new();
        rtc.write(LR, 4, 0xffff_fff0, 100);
        rtc.write(MR, 4, 4, 100);
        assert_eq!(rtc.next_alarm(), Some(120), "across the 32-bit wrap");
        rtc.write(IMSC, 4, 1, 119);
        assert!(!rtc.irq_level());
        rtc.tick(120);
        assert!(rtc.irq_level());
        assert_eq!(rtc.read(MIS, 4, 121), 1);
        rtc.write(ICR, 4, 1, 121);
        assert!(!rtc.irq_level());
        rtc.tick(10_000);
        assert!(!rtc.irq_level());
        assert_eq!(rtc.next_alarm(), None);
    }

    #[test]
    fn an_alarm_for_this_very_second_rings_at_once_and_masking_hides_it() {
        let mut rtc = Pl031::new();
        rtc.write(MR, 4, 7, 7);
        assert!(!rtc.irq_level());
        assert_eq!(rtc.read(RIS, 4, 7), 1);
        rtc.write(IMSC, 4, 1, 7);
        assert!(rtc.irq_level());
    }

    #[test]
    fn other_sizes_and_offsets_mean_nothing() {
        let mut rtc = Pl031::new();
        rtc.write(MR, 8, 9, 0);
        rtc.write(u64::MAX, 4, 9, u64::MAX);
        assert_eq!(rtc.read(MR, 4, 0), 0);
        assert_eq!(rtc.read(DR, 1, 77), 0);
        assert_eq!(rtc.read(0xffd, 4, 0), 0);
    }
}
