//! The machine's network cards: a list made at boot, and which switch each is the uplink of.

use super::nic::Nic;
use super::switch;
use crate::drivers::probe::Found;
use crate::interrupts::Handler;
use crate::machine::Line;
use alloc::sync::Arc;
use alloc::vec::Vec;
use bundle::{Mac, Manifest};
use log::{error, info, warn};
use spin::Once;

/// By ascending hardware address.
static CARDS: Once<Vec<Arc<Nic>>> = Once::new();

/// Drives the machine's network devices. Once, at boot. Answers whom their interrupts are for.
pub fn init(devices: Vec<Found>) -> Vec<(Line, Arc<dyn Handler>)> {
    let mut lines: Vec<(_, Arc<dyn Handler>)> = Vec::new();
    let mut cards = Vec::new();
    for (number, device) in (0..).zip(devices) {
        match Nic::new(number, device.transport, device.port, device.place.clone()) {
            Err(why) => warn!("network card at {}: {why}: not used", device.place),
            Ok(card) => {
                lines.push((device.line, card.clone()));
                cards.push(card);
            }
        }
    }
    cards.sort_by_key(|card| card.address());
    CARDS.call_once(|| cards);
    lines
}

/// Joins the switches that are to have an uplink to the cards, in the bundle's order. Once, when the bundle has been
/// read.
pub fn join<'a>(manifests: impl IntoIterator<Item = &'a Manifest>) {
    let cards = CARDS.get().map_or(&[][..], Vec::as_slice);
    let switches = bundle::uplinks(manifests);
    let mut cards = cards.iter();
    for name in switches {
        let Some(card) = cards.next() else {
            error!("switch {name}: the machine has no network card left for its uplink");
            continue;
        };
        let address = Mac(card.address());
        if card.join(&switch::named(name)) {
            info!("switch {name}: uplink by network card {address}");
        } else {
            error!("switch {name}: no port left for network card {address}");
        }
    }
    for card in cards {
        info!("network card {}: no switch wants it", Mac(card.address()));
    }
}
