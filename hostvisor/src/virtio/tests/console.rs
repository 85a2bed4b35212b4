//! The console device.

use crate::hw::Mutex;
use crate::virtio::console::Console;
use crate::virtio::testing::{TestDevice, TestGuest, TestQueue};
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;

const VERSION_1: u64 = 1 << 32;
const RECEIVE: u32 = 0;
const TRANSMIT: u32 = 1;

struct Terminal {
    guest: TestGuest,
    device: TestDevice,
    console: Arc<Console>,
    printed: Arc<Mutex<Vec<u8>>>,
    receive: TestQueue,
    transmit: TestQueue,
}

impl Terminal {
    fn new() -> Self {
        let guest = TestGuest::new();
        let printed: Arc<Mutex<Vec<u8>>> = Arc::default();
        let mut console = None;
        let device = TestDevice::new(&guest, false, |link| {
            let screen = printed.clone();
            let output = move |bytes: &[u8]| screen.lock().extend_from_slice(bytes);
            let made = Arc::new(Console::new(link, Box::new(output)));
            console = Some(made.clone());
            made
        });
        let (receive, transmit) = (TestQueue::new(&guest, 16), TestQueue::new(&guest, 16));
        Self {
            console: console.unwrap(),
            guest,
            device,
            printed,
            receive,
            transmit,
        }
    }

    fn started() -> Self {
        let terminal = Self::new();
        terminal.start();
        terminal
    }

    fn start(&self) {
        self.device
            .start(VERSION_1, &[&self.receive, &self.transmit]);
    }

    fn offer(&mut self, bytes: u32) -> u64 {
        let at = self.guest.allocate(bytes.into(), 1);
        self.receive.add(&self.guest, &[(at, bytes, true)]);
        self.device.notify(RECEIVE);
        at
    }

    fn print(&mut self, parts: &[&[u8]]) {
        let place = |part: &&[u8]| {
            let at = self.guest.allocate(part.len() as u64, 1);
            self.guest.write(at, part);
            (at, part.len() as u32, false)
        };
        let buffers: Vec<_> = parts.iter().map(place).collect();
        self.transmit.add(&self.guest, &buffers);
        self.device.notify(TRANSMIT);
    }
}

#[test]
fn what_a_guest_prints_is_shown_in_order_however_it_is_cut() {
    let mut terminal = Terminal::started();
    let long: Vec<u8> = (0..5000u32).map(|n| n as u8).collect();
    terminal.print(&[b"hello ", b"world\n"]);
    terminal.print(&[&long]);
    assert!(*terminal.printed.lock() == [&b"hello world\n"[..], &long].concat());
    for _ in 0..2 {
        let used = terminal.transmit.take(&terminal.guest);
        assert_eq!(used.map(|(_, written)| written), Some(0));
    }
    assert_eq!(
        terminal
            .device
            .line
            .edges
            .load(core::sync::atomic::Ordering::SeqCst),
        1
    );
    assert!(!terminal.device.is_broken());
}

#[test]
fn what_is_typed_waits_for_buffers_and_no_more_than_the_backlog() {
    let mut terminal = Terminal::started();
    for byte in 0..=255 {
        assert_eq!(terminal.console.push_input(byte), Some(true));
    }
    assert_eq!(terminal.console.push_input(0), Some(false));
    let mut read = Vec::new();
    while read.len() < 256 {
        let at = terminal.offer(100);
        let (_, written) = terminal.receive.take(&terminal.guest).unwrap();
        read.extend(terminal.guest.read(at, written as usize));
    }
    assert!(read.iter().copied().eq(0..=255));
    let at = terminal.offer(100);
    assert_eq!(terminal.receive.take(&terminal.guest), None);
    assert_eq!(terminal.console.push_input(b'x'), Some(true));
    assert_eq!(
        terminal.receive.take(&terminal.guest).map(|used| used.1),
        Some(1)
    );
    assert_eq!(terminal.guest.read(at, 1), b"x");
}

#[test]
fn without_a_driver_what_is_typed_is_somebody_elses() {
    let terminal = Terminal::new();
    assert_eq!(terminal.console.push_input(b'x'), None);
    terminal.start();
    assert_eq!(terminal.console.push_input(b'x'), Some(true));
    terminal.device.set(0x70, 0);
    assert_eq!(terminal.console.push_input(b'x'), None);
}

#[test]
fn buffers_of_the_wrong_direction_stop_the_device_until_a_reset() {
    let mut terminal = Terminal::started();
    let at = terminal.guest.allocate(8, 1);
    terminal.transmit.add(&terminal.guest, &[(at, 8, true)]);
    terminal.device.notify(TRANSMIT);
    assert!(terminal.device.is_broken());
    assert_eq!(terminal.console.push_input(b'x'), None);

    let mut terminal = Terminal::started();
    terminal.receive.add(&terminal.guest, &[(at, 8, false)]);
    terminal.device.notify(RECEIVE);
    assert!(!terminal.device.is_broken(), "nothing is typed yet");
    assert_eq!(terminal.console.push_input(b'x'), Some(true));
    assert!(terminal.device.is_broken());
    assert_eq!(terminal.console.push_input(b'y'), None);
    assert!(terminal.printed.lock().is_empty());
}
