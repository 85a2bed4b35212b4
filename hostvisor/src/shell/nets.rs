//! What `net` prints.

use super::Manage;
use super::commands::Printer;
use core::fmt::{self, Write as _};

/// Addresses shown of a port; an uplink may have hundreds.
const ADDRESSES: usize = 8;

/// All switches, each followed by its ports, their addresses and counters.
pub(super) fn list(manage: &dyn Manage, out: &mut Printer<'_>) -> fmt::Result {
    let switches = manage.switches();
    if switches.is_empty() {
        return writeln!(out, "no switches: no VM has a network interface");
    }
    for switch in &switches {
        writeln!(out, "switch {}: {} ports", switch.name, switch.ports.len())?;
        for port in &switch.ports {
            writeln!(out, "  port {}: {}", port.id, port.label)?;
            for (address, pinned) in port.addresses.iter().take(ADDRESSES) {
                let how = if *pinned { "its own" } else { "learned" };
                writeln!(out, "    {}  {how}", Address(address))?;
            }
            if port.addresses.len() > ADDRESSES {
                writeln!(out, "    and {} more", port.addresses.len() - ADDRESSES)?;
            }
            for (name, count) in &port.counters {
                writeln!(out, "    {name:18}{count:>14}")?;
            }
        }
    }
    Ok(())
}

struct Address<'a>(&'a [u8; 6]);

impl fmt::Display for Address<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        bundle::Mac(*self.0).fmt(f)
    }
}
