use super::*;
use proptest::prelude::*;

const SIZE: u16 = 8;

/// The device's side of the ring, as §2.7 has it.
struct Device {
    ring: Dma,
    next_avail: u16,
    used: u16,
}

fn pair(event_idx: bool) -> (Queue, Device) {
    let ring = Dma::new(0x1000, 4096).unwrap();
    let device = Device {
        ring: ring.clone(),
        next_avail: 0,
        used: 0,
    };
    (Queue::new(ring, SIZE, event_idx).unwrap(), device)
}

impl Device {
    const AVAIL: u64 = 16 * SIZE as u64;
    const USED: u64 = Queue::used_offset(SIZE);

    fn take(&mut self) -> Option<u16> {
        if self.ring.read16(Self::AVAIL + 2) == self.next_avail {
            return None;
        }
        let slot = u64::from(self.next_avail % SIZE);
        self.next_avail = self.next_avail.wrapping_add(1);
        Some(self.ring.read16(Self::AVAIL + 4 + slot * 2))
    }

    fn put(&mut self, id: u32, len: u32) {
        let entry = Self::USED + 4 + u64::from(self.used % SIZE) * 8;
        self.ring.write32(entry, id);
        self.ring.write32(entry + 4, len);
        self.used = self.used.wrapping_add(1);
        self.ring.write16(Self::USED + 2, self.used);
    }

    fn set_avail_event(&self, value: u16) {
        self.ring
            .write16(Self::USED + 4 + u64::from(SIZE) * 8, value);
    }

    fn used_event(&self) -> u16 {
        self.ring.read16(Self::AVAIL + 4 + u64::from(SIZE) * 2)
    }
}

#[test]
fn the_parts_lie_where_the_standard_has_them() {
    // 2.7: alignment 16, 2, 4; sizes 16n, 6 + 2n, 6 + 8n.
    for n in [2_u16, 4, 8, 256, 1024] {
        let ring = Dma::new(0x1_0000, Queue::bytes(n).next_multiple_of(4096)).unwrap();
        let [table, driver, device] = Queue::new(ring, n, true).unwrap().addresses();
        let n = u64::from(n);
        assert_eq!((table % 16, driver % 2, device % 4), (0, 0, 0));
        assert!(table + 16 * n <= driver && driver + 6 + 2 * n <= device);
        assert_eq!(device + 6 + 8 * n - table, Queue::bytes(n as u16));
    }
    let short = || Dma::new(0x1000, 64).unwrap();
    assert!(Queue::new(short(), 8, true).is_none());
    assert!(Queue::new(Dma::new(0x1000, 4096).unwrap(), 6, true).is_none());
}

#[test]
fn with_event_index_the_device_is_told_only_when_it_asked() {
    let (mut queue, device) = pair(true);
    device.set_avail_event(0);
    queue.offer(0);
    assert!(queue.publish());
    queue.offer(1);
    assert!(!queue.publish());
    device.set_avail_event(3);
    queue.offer(2);
    assert!(!queue.publish());
    queue.offer(3);
    queue.offer(4);
    assert!(queue.publish());
    assert!(!queue.publish());
}

#[test]
fn without_event_index_the_flag_counts() {
    let (mut queue, device) = pair(false);
    queue.offer(0);
    assert!(queue.publish());
    device.ring.write16(Device::USED, NO_NOTIFY);
    queue.offer(1);
    assert!(!queue.publish());
}

#[test]
fn used_chains_that_nobody_offered_break_the_device() {
    let (mut queue, mut device) = pair(true);
    device.put(0, 0);
    assert_eq!(queue.take_used(), Err(Broken));
    for id in [SIZE.into(), u32::MAX, 1 << 16] {
        let (mut queue, mut device) = pair(true);
        queue.offer(0);
        queue.publish();
        device.put(id, 0);
        assert_eq!(queue.take_used(), Err(Broken), "{id:#x}");
    }
}

#[test]
fn asking_for_an_interrupt_finds_what_came_meanwhile() {
    let (mut queue, mut device) = pair(true);
    queue.offer(3);
    queue.publish();
    assert!(!queue.await_used());
    assert_eq!(device.used_event(), 0);
    device.put(3, 9);
    assert!(queue.await_used());
    assert_eq!(queue.take_used(), Ok(Some(Used { head: 3, len: 9 })));
    assert!(!queue.await_used());
    assert_eq!(device.used_event(), 1);
    queue.ignore_used();
    assert_eq!(device.used_event(), 0x8001);
}

proptest! {
    /// Whatever the order in which the device works, and however often the indices wrap: what is offered is seen
    /// once, and comes back once. The device is told whenever it would otherwise not know.
    #[test]
    fn nothing_is_lost_and_nothing_comes_twice(
        steps in proptest::collection::vec((0_u8..3, any::<u8>()), 0..400),
        event_idx: bool,
    ) {
        let (mut queue, mut device) = pair(event_idx);
        // Near the wrap.
        for index in [&mut queue.next_avail, &mut queue.published, &mut queue.next_used, &mut queue.seen] {
            *index = u16::MAX - 20;
        }
        (device.next_avail, device.used) = (u16::MAX - 20, u16::MAX - 20);
        device.ring.write16(Device::AVAIL + 2, u16::MAX - 20);
        device.ring.write16(Device::USED + 2, u16::MAX - 20);
        device.set_avail_event(u16::MAX - 20);
        let mut free: Vec<u16> = (0..SIZE).collect();
        let mut held = Vec::new();
        let mut used = Vec::new();
        let mut told = false;
        for (what, choice) in steps {
            match what {
                0 if !free.is_empty() => {
                    let head = free.swap_remove(usize::from(choice) % free.len());
                    queue.offer(head);
                    told |= queue.publish();
                    if event_idx {
                        prop_assert!(told);
                    }
                }
                1 => {
                    while let Some(head) = device.take() {
                        held.push(head);
                    }
                    device.set_avail_event(device.next_avail);
                    told = false;
                    if !held.is_empty() {
                        let head = held.swap_remove(usize::from(choice) % held.len());
                        device.put(head.into(), choice.into());
                        used.push(Used { head, len: choice.into() });
                    }
                }
                _ => {
                    for expected in used.drain(..) {
                        prop_assert_eq!(queue.take_used(), Ok(Some(expected)));
                        free.push(expected.head);
                    }
                    prop_assert_eq!(queue.take_used(), Ok(None));
                }
            }
        }
    }
}
