use super::*;
use crate::net::NetHeader;
use proptest::prelude::*;

/// Keeps what it is given, as far as there is room.
#[derive(Default)]
struct Bin {
    frames: Mutex<Vec<Vec<u8>>>,
    room: usize,
    counters: Counters,
}

impl Port for Bin {
    fn label(&self) -> String {
        "bin".into()
    }

    fn deliver(&self, frame: &Frame<'_>) -> Result<(), Fault> {
        let mut frames = self.frames.lock();
        if frames.len() < self.room {
            frames.push(frame.to_vec().unwrap().unwrap());
            Counters::count(&self.counters.received, 1);
        } else {
            Counters::count(&self.counters.dropped, 1);
        }
        Ok(())
    }

    fn counters(&self) -> &Counters {
        &self.counters
    }
}

const fn mac(n: u8) -> [u8; 6] {
    [2, 0, 0, 0, 0, n]
}

fn frame(to: [u8; 6], from: [u8; 6], serial: u8) -> Vec<u8> {
    let mut bytes = [to, from].concat();
    bytes.extend([0x88, 0xb5, serial]);
    bytes
}

fn send(switch: &Switch, from: PortId, bytes: &[u8]) -> Result<(), Fault> {
    let frame = Frame::own(NetHeader::default(), bytes).unwrap();
    switch.forward(from, &frame).map(|_| ())
}

fn switch(rooms: &[usize]) -> (Switch, Vec<Arc<Bin>>) {
    let switch = Switch::new("test");
    let bins: Vec<_> = rooms
        .iter()
        .map(|&room| {
            Arc::new(Bin {
                room,
                ..Bin::default()
            })
        })
        .collect();
    for (n, bin) in bins.iter().enumerate() {
        // The last one is the uplink.
        let own = (n + 1 < bins.len()).then_some(mac(n as u8));
        assert_eq!(switch.attach(bin.clone(), own), Ok(n as PortId));
    }
    (switch, bins)
}

proptest! {
    /// No frame comes back to its sender's port; a unicast frame reaches the port of its address and no other; a
    /// group's, or an unknown one's, reaches all others, each once; what a port has no room for is counted there, and
    /// holds up nobody: received and dropped together are what was to be delivered.
    #[test]
    fn every_frame_goes_where_it_belongs_once_or_is_counted(
        frames in proptest::collection::vec((0u16..4, 0u8..8), 1..100),
        rooms in proptest::collection::vec(0usize..40, 4),
    ) {
        let (switch, bins) = switch(&rooms);
        let mut due = vec![Vec::new(); 4];
        for (serial, (from, to)) in frames.into_iter().enumerate() {
            let to_mac = match to {
                0..=2 => mac(to),
                3 => [0xff; 6],
                4 => [0x33, 0x33, 0, 0, 0, 1],
                // 9 is behind the uplink, once it was heard.
                5 => mac(9),
                _ => mac(100 + to),
            };
            let source = if from == 3 { mac(9) } else { mac(from as u8) };
            let known = if to_mac == source {
                Some(from)
            } else {
                switch.state.lock().table.find(to_mac, 0)
            };
            let bytes = frame(to_mac, source, serial as u8);
            prop_assert_eq!(send(&switch, from, &bytes), Ok(()));
            for port in 0..4u16 {
                if port != from && known.is_none_or(|known| known == port) {
                    due[usize::from(port)].push(bytes.clone());
                }
            }
        }
        for ((bin, due), room) in bins.iter().zip(due).zip(rooms) {
            let frames = bin.frames.lock();
            prop_assert_eq!(&frames[..], &due[..due.len().min(room)]);
            let dropped = bin.counters.dropped.load(Ordering::Relaxed) as usize;
            prop_assert_eq!(frames.len() + dropped, due.len());
        }
    }
}

#[test]
fn a_guest_cannot_speak_for_another() {
    let (switch, bins) = switch(&[9, 9, 9]);
    assert_eq!(
        send(&switch, 1, &frame([0xff; 6], mac(0), 1)),
        Err(Fault::Malformed)
    );
    assert_eq!(
        send(&switch, 2, &frame([0xff; 6], mac(0), 1)),
        Err(Fault::Malformed),
        "nor from outside"
    );
    assert_eq!(
        send(&switch, 1, &frame(mac(0), [3; 6], 1)),
        Err(Fault::Malformed),
        "a group's address"
    );
    assert!(bins.iter().all(|bin| bin.frames.lock().is_empty()));
    // And cannot draw its frames away.
    assert_eq!(send(&switch, 2, &frame(mac(0), mac(9), 2)), Ok(()));
    assert_eq!(bins[0].frames.lock().len(), 1);
}

#[test]
fn reserved_groups_stay_on_their_link() {
    let (switch, bins) = switch(&[9, 9, 9]);
    assert_eq!(
        send(&switch, 0, &frame([1, 0x80, 0xc2, 0, 0, 0], mac(0), 1)),
        Ok(())
    );
    assert_eq!(
        send(&switch, 0, &frame([1, 0x80, 0xc2, 0, 0, 0xe], mac(0), 1)),
        Ok(())
    );
    assert!(bins.iter().all(|bin| bin.frames.lock().is_empty()));
}

#[test]
fn a_port_that_was_detached_gets_nothing_and_its_address_is_free() {
    let (switch, bins) = switch(&[9, 9, 9]);
    switch.detach(1);
    assert_eq!(send(&switch, 0, &frame(mac(1), mac(0), 1)), Ok(()));
    assert!(bins[1].frames.lock().is_empty());
    assert_eq!(bins[2].frames.lock().len(), 1, "unknown: flooded");
    assert_eq!(
        send(&switch, 1, &frame(mac(0), mac(1), 2)),
        Err(Fault::Malformed)
    );
    assert_eq!(
        switch.attach(bins[1].clone(), Some(mac(0))),
        Err(Refused::Address)
    );
    assert_eq!(switch.attach(bins[1].clone(), Some(mac(1))), Ok(1));
}

#[test]
fn there_is_one_switch_of_a_name() {
    assert!(Arc::ptr_eq(
        &named("lan-of-this-test"),
        &named("lan-of-this-test")
    ));
}

#[test]
fn nobody_is_heard_at_the_address_of_zeros() {
    let (switch, bins) = switch(&[9, 9, 9]);
    assert_eq!(
        send(&switch, 1, &frame(mac(9), [0; 6], 0)),
        Err(Fault::Malformed)
    );
    // Nor found: it goes to all.
    send(&switch, 1, &frame([0; 6], mac(1), 1)).unwrap();
    let received: Vec<usize> = bins.iter().map(|bin| bin.frames.lock().len()).collect();
    assert_eq!(received, [1, 0, 1]);
}
