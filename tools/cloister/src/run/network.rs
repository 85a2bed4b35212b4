//! The machine's network: a card for each switch that has an uplink, addresses behind QEMU's user
//! network, and ports of the workstation forwarded to VMs.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::str::FromStr;

use bundle::{Format, Ipv4Cidr, Mac, Manifest};

use crate::error::{Error, Result, io_reason};
use crate::vmfile::VmFile;

/// Host part of the first address that is given out; those before are QEMU's.
const FIRST_HOST: u8 = 15;
/// Host part from which on QEMU's DHCP gives out addresses, and we do not.
const FIRST_DHCP: u8 = 128;

/// A port of the workstation that leads to a VM: `[ADDRESS:]PORT:VM:PORT[/udp]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Forward {
    /// Of the workstation.
    outside: SocketAddr,
    /// Name of the VM.
    vm: String,
    /// Port of the VM.
    port: u16,
    protocol: Protocol,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Protocol {
    Tcp,
    Udp,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

impl FromStr for Forward {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let parse = || {
            let (text, protocol) = match text.split_once('/') {
                None | Some((_, "tcp")) => (text.trim_end_matches("/tcp"), Protocol::Tcp),
                Some((text, "udp")) => (text, Protocol::Udp),
                Some(_) => return None,
            };
            let fields: Vec<&str> = text.split(':').collect();
            let (address, outside, vm, inside) = match fields[..] {
                [outside, vm, inside] => (Ipv4Addr::LOCALHOST, outside, vm, inside),
                [address, outside, vm, inside] => (address.parse().ok()?, outside, vm, inside),
                _ => return None,
            };
            let port = |text: &str| text.parse().ok().filter(|&port: &u16| port != 0);
            Some(Self {
                outside: SocketAddr::new(IpAddr::V4(address), port(outside)?),
                vm: vm.to_owned(),
                port: port(inside)?,
                protocol,
            })
        };
        parse().ok_or_else(|| "must be [ADDRESS:]PORT:VM:PORT[/udp], like 8080:web:80".to_owned())
    }
}

impl fmt::Display for Forward {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (outside, vm, port) = (self.outside, &self.vm, self.port);
        write!(f, "{outside} -> {vm} port {port} ({})", self.protocol)
    }
}

/// A network card of the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Card {
    /// Cards are counted by these: see [`bundle::uplinks`].
    pub(crate) mac: Mac,
    /// What is behind it, as QEMU's `-netdev` has it, without an id.
    pub(crate) backend: String,
}

/// QEMU's user network behind uplink `index`: 10.0.2.0/24 and upwards.
fn user_network(index: usize, host: u8) -> Ipv4Addr {
    let third = u8::try_from(index).unwrap_or(u8::MAX).saturating_add(2);
    Ipv4Addr::new(10, 0, third, host)
}

/// The switches that have an uplink, as [`bundle::uplinks`] will find them.
fn uplinks(vms: &[VmFile]) -> Vec<String> {
    let mut switches: Vec<String> = Vec::new();
    for net in vms.iter().flat_map(|vm| &vm.nets).filter(|net| net.uplink) {
        if !switches.contains(&net.switch) {
            switches.push(net.switch.clone());
        }
    }
    switches
}

/// Gives Linux VMs behind QEMU's user network fixed addresses, where they have none: ports can be forwarded
/// to those only. `netdevs` uplinks lead elsewhere.
pub(crate) fn give_addresses(vms: &mut [VmFile], netdevs: usize) {
    for (index, switch) in uplinks(vms).into_iter().enumerate().skip(netdevs) {
        // What a kernel command line says (ip=ADDRESS:...) counts, too.
        let words = vms.iter().flat_map(|vm| vm.append.split(' '));
        let by_hand =
            words.filter_map(|word| word.strip_prefix("ip=")?.split(':').next()?.parse().ok());
        let taken: Vec<Ipv4Addr> = (vms.iter().flat_map(|vm| &vm.nets))
            .filter_map(|net| Some(net.address?.address))
            .chain(by_hand)
            .collect();
        let gateway = user_network(index, 2);
        let mut free = (FIRST_HOST..FIRST_DHCP)
            .map(|host| user_network(index, host))
            .filter(|address| !taken.contains(address));
        for vm in vms.iter_mut() {
            let own = vm.append.split(' ').any(|word| word.starts_with("ip="));
            let linux = matches!(vm.format, Format::Linux) && !own;
            for net in vm.nets.iter_mut().filter(|net| net.switch == switch) {
                if net.address.is_none() && linux {
                    let address = free.next();
                    net.address = address.map(|address| Ipv4Cidr {
                        address,
                        prefix: 24,
                    });
                }
                if net.address.is_some_and(|own| own.contains(gateway)) {
                    net.gateway = net.gateway.or(Some(gateway));
                }
            }
        }
    }
}

/// Checks that every switch connects something: a name that only one interface mentions is a slip of the pen,
/// unless it is the default or in `declared`.
pub(crate) fn check_switches(vms: &[Manifest], declared: &[String]) -> Result<()> {
    let uplinks = bundle::uplinks(vms);
    for vm in vms {
        for net in &vm.nets {
            let ports = vms.iter().flat_map(|vm| &vm.nets);
            let alone = ports.filter(|other| other.switch == net.switch).count() == 1;
            let known = net.switch == "default"
                || uplinks.contains(&net.switch.as_str())
                || declared.contains(&net.switch);
            if alone && !known {
                return Err(Error::config(format_args!(
                    "VM '{}': unknown switch '{}': no other interface is on it, and it has no uplink \
                     (--switch {} if that is meant)",
                    vm.name, net.switch, net.switch
                )));
            }
        }
    }
    Ok(())
}

/// Checks that no VM has an address that QEMU's user network behind uplink `index` keeps for itself: gateway, DNS.
fn check_own(vms: &[Manifest], index: usize, switch: &str) -> Result<()> {
    let own = [2, 3].map(|host| user_network(index, host));
    for vm in vms {
        let there = vm.nets.iter().filter(|net| net.switch == switch);
        let mut addresses = there.filter_map(|net| Some(net.address?.address));
        if let Some(address) = addresses.find(|address| own.contains(address)) {
            return Err(Error::config(format_args!(
                "VM '{}': address {address} is QEMU's own on this uplink",
                vm.name
            )));
        }
    }
    Ok(())
}

/// The machine's cards, forwards included. `netdevs` are what the first uplinks lead to, instead of QEMU's
/// user network.
pub(crate) fn cards(
    vms: &[Manifest],
    netdevs: &[String],
    forwards: &[Forward],
) -> Result<Vec<Card>> {
    let switches = bundle::uplinks(vms);
    if let Some(extra) = netdevs.get(switches.len()) {
        return Err(Error::config(format_args!(
            "--netdev {extra}: no uplink for it, the VMs have {}",
            switches.len()
        )));
    }
    for (index, switch) in switches.iter().enumerate().skip(netdevs.len()) {
        check_own(vms, index, switch)?;
    }
    let mut cards: Vec<Card> = (0..switches.len())
        .map(|index| Card {
            mac: Mac([0x52, 0x54, 1, 0, 0, index as u8]),
            backend: netdevs.get(index).cloned().unwrap_or_else(|| {
                let (network, dhcp) = (user_network(index, 0), user_network(index, FIRST_DHCP));
                format!("user,net={network}/24,dhcpstart={dhcp}")
            }),
        })
        .collect();
    for (i, forward) in forwards.iter().enumerate() {
        let earlier = forwards.iter().take(i);
        if let Some(first) = { earlier }.find(|first| first.collides(forward)) {
            return Err(forward.refuse(format_args!(
                "the port is forwarded to '{}' already",
                first.vm
            )));
        }
        let (index, guest) = forward.target(vms, &switches, netdevs.len())?;
        if let Some(card) = cards.get_mut(index) {
            let (protocol, outside, port) = (forward.protocol, forward.outside, forward.port);
            card.backend += &format!(",hostfwd={protocol}:{outside}-{guest}:{port}");
        }
    }
    Ok(cards)
}

/// Checks that every forwarded port of the workstation is free.
pub(crate) fn check_ports(forwards: &[Forward]) -> Result<()> {
    for forward in forwards {
        let bound = match forward.protocol {
            Protocol::Tcp => TcpListener::bind(forward.outside).map(drop),
            Protocol::Udp => UdpSocket::bind(forward.outside).map(drop),
        };
        bound.map_err(|e| forward.refuse(io_reason(&e)))?;
    }
    Ok(())
}

impl Forward {
    fn refuse(&self, reason: impl fmt::Display) -> Error {
        let (outside, vm, port) = (self.outside, &self.vm, self.port);
        Error::config(format_args!("--forward {outside}:{vm}:{port}: {reason}"))
    }

    /// Both want the same port of the workstation.
    fn collides(&self, other: &Self) -> bool {
        let any = |forward: &Self| forward.outside.ip().is_unspecified();
        self.protocol == other.protocol
            && self.outside.port() == other.outside.port()
            && (self.outside.ip() == other.outside.ip() || any(self) || any(other))
    }

    /// Which uplink leads to the VM, and its address there.
    fn target(
        &self,
        vms: &[Manifest],
        switches: &[&str],
        netdevs: usize,
    ) -> Result<(usize, Ipv4Addr)> {
        let vm = vms
            .iter()
            .find(|vm| vm.name == self.vm)
            .ok_or_else(|| self.refuse("no VM has this name"))?;
        if vm.nets.is_empty() {
            return Err(self.refuse("the VM has no network"));
        }
        let uplink = |switch: &str| switches.iter().position(|known| *known == switch);
        let mut reason = "none of the VM's switches has an uplink".to_owned();
        for net in &vm.nets {
            let Some(index) = uplink(&net.switch) else {
                continue;
            };
            if index < netdevs {
                reason = "the uplink is not QEMU's user network, the VM can be reached directly"
                    .to_owned();
                continue;
            }
            let network = Ipv4Cidr {
                address: user_network(index, 1),
                prefix: 24,
            };
            match net.address {
                None => {
                    reason =
                        "the VM's address is not known: give its [[net]] an address".to_owned();
                }
                Some(own) if !network.contains(own.address) => {
                    reason = format!(
                        "{own} is not in QEMU's user network {}/24",
                        user_network(index, 0)
                    );
                }
                Some(own) => return Ok((index, own.address)),
            }
        }
        Err(self.refuse(reason))
    }
}

#[cfg(test)]
#[path = "network_tests.rs"]
mod tests;
