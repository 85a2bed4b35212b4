//! The devices a manifest gives a VM, and their text form: one line each, fields parted by single
//! spaces. Every value has one text form only, as the whole manifest has.

use alloc::borrow::ToOwned;
use alloc::string::String;
use core::fmt;
use core::net::Ipv4Addr;

/// Most disks of a VM.
pub const MAX_DISKS: usize = 8;
/// Most network interfaces of a VM.
pub const MAX_NETS: usize = 8;
/// Longest serial number of a disk, in bytes (virtio 1.2 §5.2.6.3, VIRTIO_BLK_T_GET_ID).
pub const MAX_SERIAL: usize = 20;
/// Longest partition label, in UTF-16 code units (UEFI 2.10 §5.3.3, PartitionName).
pub const MAX_LABEL: usize = 36;
/// Longest name of a switch, in bytes.
pub const MAX_SWITCH: usize = 31;

/// What a VM has for a console, beside its kernel's early messages.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum GuestConsole {
    /// The PL011 UART alone: `ttyAMA0`.
    #[default]
    Pl011,
    /// A virtio console (`hvc0`) beside the PL011.
    Virtio,
}

impl GuestConsole {
    /// As written.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pl011 => "pl011",
            Self::Virtio => "virtio",
        }
    }

    pub(crate) fn parse(text: &str) -> Option<Self> {
        [Self::Pl011, Self::Virtio]
            .into_iter()
            .find(|console| console.as_str() == text)
    }
}

/// Which of the machine's disks, or which part of one, is behind a VM's disk.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum DiskSource {
    /// The whole disk with this serial number: 1 to [`MAX_SERIAL`] graphic ASCII characters.
    Serial(String),
    /// The GPT partition with this label, on whatever disk: 1 to [`MAX_LABEL`] UTF-16 code units, no
    /// control characters.
    Label(String),
}

impl DiskSource {
    /// The serial number that the guest reads (VIRTIO_BLK_T_GET_ID): the disk's own, or as much of the
    /// partition's label as fits.
    #[must_use]
    pub fn guest_serial(&self) -> &str {
        let (Self::Serial(text) | Self::Label(text)) = self;
        let mut end = text.len().min(MAX_SERIAL);
        while !text.is_char_boundary(end) {
            end = end.saturating_sub(1);
        }
        text.get(..end).unwrap_or_default()
    }

    /// True if the name is one that a disk or partition can have.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        match self {
            Self::Serial(serial) => {
                (1..=MAX_SERIAL).contains(&serial.len())
                    && serial.bytes().all(|b| b.is_ascii_graphic())
            }
            Self::Label(label) => {
                (1..=MAX_LABEL).contains(&label.encode_utf16().count())
                    && !label.chars().any(char::is_control)
            }
        }
    }
}

impl fmt::Display for DiskSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Serial(serial) => write!(f, "serial {serial}"),
            Self::Label(label) => write!(f, "label {label}"),
        }
    }
}

/// A disk of a VM. Text form: `ro|rw shared|exclusive serial|label NAME`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Disk {
    /// What is behind it.
    pub source: DiskSource,
    /// The guest can only read it.
    pub read_only: bool,
    /// Other VMs may have it too; it must be read-only then, for all of them.
    pub shared: bool,
}

impl Disk {
    /// The values allowed, in words.
    pub const ALLOWED: &'static str = "'ro' or 'rw', 'exclusive' or (with 'ro') 'shared', then 'serial' \
         and 1 to 20 graphic ASCII characters or 'label' and 1 to 36 characters";

    pub(crate) fn parse(text: &str) -> Option<Self> {
        let mut fields = text.splitn(4, ' ');
        let read_only = choice(fields.next()?, "ro", "rw")?;
        let shared = choice(fields.next()?, "shared", "exclusive")?;
        let kind = fields.next()?;
        let name = fields.next()?.to_owned();
        let source = match kind {
            "serial" => DiskSource::Serial(name),
            "label" => DiskSource::Label(name),
            _ => return None,
        };
        Some(Self {
            source,
            read_only,
            shared,
        })
        .filter(Self::is_sound)
    }

    pub(crate) fn is_sound(&self) -> bool {
        self.source.is_sound() && (self.read_only || !self.shared)
    }
}

impl fmt::Display for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mode = if self.read_only { "ro" } else { "rw" };
        let sharing = if self.shared { "shared" } else { "exclusive" };
        write!(f, "{mode} {sharing} {}", self.source)
    }
}

/// A hardware address of a network interface.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// Reads `52:54:00:12:34:56`, in small letters only: the one text form.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut bytes = [0; 6];
        let mut fields = text.split(':');
        for byte in &mut bytes {
            let field = fields.next().filter(|field| {
                let digits = field.bytes();
                field.len() == 2
                    && digits
                        .into_iter()
                        .all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
            })?;
            *byte = u8::from_str_radix(field, 16).ok()?;
        }
        fields.next().is_none().then_some(Self(bytes))
    }

    /// True for an address that one interface can have: not of a group (IEEE 802-2014 §8.2), not zero.
    #[must_use]
    pub fn is_unicast(self) -> bool {
        let [first, ..] = self.0;
        first & 1 == 0 && self.0 != [0; 6]
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// An interface's IPv4 address and the size of its network: `10.0.2.15/24`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Ipv4Cidr {
    /// The interface's own address.
    pub address: Ipv4Addr,
    /// Leading bits that all of the network share, 1 to 30.
    pub prefix: u8,
}

impl Ipv4Cidr {
    /// Reads `10.0.2.15/24`; only an address that a host can have.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (address, prefix) = text.split_once('/')?;
        let plain = matches!(
            prefix.as_bytes(),
            [b'1'..=b'9'] | [b'1'..=b'3', b'0'..=b'9']
        );
        let prefix = prefix.parse().ok().filter(|_| plain)?;
        let address = address.parse().ok()?;
        Some(Self { address, prefix }).filter(|cidr| cidr.is_host())
    }

    /// The network's mask: 255.255.255.0 for /24.
    #[must_use]
    pub fn mask(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.mask_bits())
    }

    /// True if `other` is in the same network.
    #[must_use]
    pub fn contains(self, other: Ipv4Addr) -> bool {
        (self.address.to_bits() ^ other.to_bits()) & self.mask_bits() == 0
    }

    fn mask_bits(self) -> u32 {
        !u32::MAX.checked_shr(u32::from(self.prefix)).unwrap_or(0)
    }

    /// A host's address: neither the network's own nor its broadcast, no group, no loopback.
    fn is_host(&self) -> bool {
        let host = self.address.to_bits() & !self.mask_bits();
        let [first, ..] = self.address.octets();
        (1..=30).contains(&self.prefix)
            && host != 0
            && host != !self.mask_bits()
            && matches!(first, 1..=126 | 128..=223)
    }
}

impl fmt::Display for Ipv4Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

/// A network interface of a VM. Text form: `MAC SWITCH uplink|internal ADDRESS/PREFIX|auto`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Net {
    /// Its hardware address.
    pub mac: Mac,
    /// The switch it is a port of; 1 to [`MAX_SWITCH`] of a–z, 0–9 and '-'. Every name that a VM
    /// mentions is a switch.
    pub switch: String,
    /// Joins the switch to one of the machine's network cards: see [`crate::uplinks`].
    pub uplink: bool,
    /// The IPv4 address it is meant to have, if that was decided beforehand.
    pub address: Option<Ipv4Cidr>,
}

impl Net {
    /// The values allowed, in words.
    pub const ALLOWED: &'static str = "a unicast address 'xx:xx:xx:xx:xx:xx', a switch's name of 1 to \
         31 characters a-z, 0-9, '-', 'uplink' or 'internal', then a host's 'a.b.c.d/prefix' or 'auto'";

    pub(crate) fn parse(text: &str) -> Option<Self> {
        let mut fields = text.split(' ');
        let net = Self {
            mac: Mac::parse(fields.next()?)?,
            switch: fields.next()?.to_owned(),
            uplink: choice(fields.next()?, "uplink", "internal")?,
            address: match fields.next()? {
                "auto" => None,
                address => Some(Ipv4Cidr::parse(address)?),
            },
        };
        Some(net).filter(|net| fields.next().is_none() && net.is_sound())
    }

    pub(crate) fn is_sound(&self) -> bool {
        self.mac.is_unicast()
            && is_switch_name(&self.switch)
            && self.address.is_none_or(|address| address.is_host())
    }
}

impl fmt::Display for Net {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let uplink = if self.uplink { "uplink" } else { "internal" };
        write!(f, "{} {} {uplink} ", self.mac, self.switch)?;
        match self.address {
            Some(address) => write!(f, "{address}"),
            None => write!(f, "auto"),
        }
    }
}

/// True if a switch can have this name.
#[must_use]
pub fn is_switch_name(text: &str) -> bool {
    is_name(text, MAX_SWITCH)
}

/// 1 to `max` of a–z, 0–9 and '-': the names of VMs and switches.
pub(crate) fn is_name(text: &str, max: usize) -> bool {
    let allowed = |b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-');
    (1..=max).contains(&text.len()) && text.bytes().all(allowed)
}

/// True for `yes`, false for `no`, nothing for other text.
fn choice(text: &str, yes: &str, no: &str) -> Option<bool> {
    match text {
        _ if text == yes => Some(true),
        _ if text == no => Some(false),
        _ => None,
    }
}

#[cfg(test)]
#[path = "device_tests.rs"]
pub(crate) mod tests;
