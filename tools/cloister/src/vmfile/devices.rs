//! The `[[disk]]` and `[[net]]` tables of a VM's file, each with the line it begins on.

use std::net::Ipv4Addr;
use std::ops::Range;
use std::path::{Path, PathBuf};

use bundle::device::{MAX_DISKS, MAX_NETS, MAX_SERIAL, is_switch_name};
use bundle::{DiskSource, Ipv4Cidr, Mac};
use serde::{Deserialize, Deserializer, de};
use toml::Spanned;

/// A disk as described, not looked at yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DiskFile {
    /// Line of the VM's file; 0 if there is none.
    pub(crate) line: usize,
    /// What is behind it.
    pub(crate) backing: Backing,
    /// The guest can only read it.
    pub(crate) read_only: bool,
    /// Other VMs may have it too.
    pub(crate) shared: bool,
}

/// What is behind a VM's disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Backing {
    /// A raw image on the workstation, which becomes a disk of the machine.
    Image {
        /// The file.
        path: PathBuf,
        /// Serial number that the machine's disk gets, if one is wanted.
        serial: Option<String>,
    },
    /// A whole disk of the machine, by serial number.
    Serial(String),
    /// A GPT partition of one of the machine's disks, by label.
    Label(String),
}

/// A network interface as described.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NetFile {
    /// Line of the VM's file; 0 if there is none.
    pub(crate) line: usize,
    /// Its hardware address, if one is wanted.
    pub(crate) mac: Option<Mac>,
    /// The switch it is a port of.
    pub(crate) switch: String,
    /// Joins the switch to a network card of the machine.
    pub(crate) uplink: bool,
    /// Its IPv4 address, if it shall have a fixed one.
    pub(crate) address: Option<Ipv4Cidr>,
    /// Where packets for other networks go.
    pub(crate) gateway: Option<Ipv4Addr>,
}

/// The switch of an interface that names none.
pub(crate) const DEFAULT_SWITCH: &str = "default";

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct DiskKeys {
    image: Option<PathBuf>,
    serial: Option<String>,
    label: Option<String>,
    read_only: Option<bool>,
    shared: Option<bool>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct NetKeys {
    #[serde(default, deserialize_with = "mac")]
    mac: Option<Mac>,
    switch: Option<String>,
    uplink: Option<bool>,
    #[serde(default, deserialize_with = "cidr")]
    address: Option<Ipv4Cidr>,
    gateway: Option<Ipv4Addr>,
}

/// A table's line, and what is wrong with the table.
pub(super) type Fault = (Range<usize>, String);

/// Checks a VM's disks; `line` gives the line of a byte.
pub(super) fn disks(
    tables: Vec<Spanned<DiskKeys>>,
    folder: &Path,
    line: impl Fn(usize) -> usize,
) -> Result<Vec<DiskFile>, Fault> {
    if let Some(table) = tables.get(MAX_DISKS) {
        let words = format!("disk: a VM has at most {MAX_DISKS} disks");
        return Err((table.span(), words));
    }
    let check = |table| DiskKeys::check(table, folder, &line);
    tables.into_iter().map(check).collect()
}

/// Checks a VM's network interfaces; `line` gives the line of a byte.
pub(super) fn nets(
    tables: Vec<Spanned<NetKeys>>,
    line: impl Fn(usize) -> usize,
) -> Result<Vec<NetFile>, Fault> {
    if let Some(table) = tables.get(MAX_NETS) {
        let words = format!("net: a VM has at most {MAX_NETS} interfaces");
        return Err((table.span(), words));
    }
    let check = |table| NetKeys::check(table, &line);
    tables.into_iter().map(check).collect()
}

impl DiskKeys {
    fn check(
        table: Spanned<Self>,
        folder: &Path,
        line: impl Fn(usize) -> usize,
    ) -> Result<DiskFile, Fault> {
        let span = table.span();
        let keys = table.into_inner();
        if let Some(serial) = &keys.serial
            && !DiskSource::Serial(serial.clone()).is_sound()
        {
            let words = format!(
                "disk: serial '{serial}' must be 1 to {MAX_SERIAL} graphic ASCII characters"
            );
            return Err((span, words));
        }
        if let Some(label) = &keys.label
            && !DiskSource::Label(label.clone()).is_sound()
        {
            let words = format!(
                "disk: label '{label}' must be 1 to 36 characters, none of them a control character"
            );
            return Err((span, words));
        }
        let backing = match (keys.image, keys.serial, keys.label) {
            (Some(path), serial, None) => Backing::Image {
                path: folder.join(path),
                serial,
            },
            (None, Some(serial), None) => Backing::Serial(serial),
            (None, None, Some(label)) => Backing::Label(label),
            _ => {
                let words =
                    "disk: must have one of image (and serial with it, if wanted), serial, label";
                return Err((span, words.to_owned()));
            }
        };
        let read_only = keys.read_only.unwrap_or(false);
        let shared = keys.shared.unwrap_or(false);
        if shared && !read_only {
            return Err((
                span,
                "disk: shared = true needs read-only = true".to_owned(),
            ));
        }
        Ok(DiskFile {
            line: line(span.start),
            backing,
            read_only,
            shared,
        })
    }
}

impl NetKeys {
    fn check(table: Spanned<Self>, line: impl Fn(usize) -> usize) -> Result<NetFile, Fault> {
        let span = table.span();
        let keys = table.into_inner();
        match (keys.address, keys.gateway) {
            (None, Some(_)) => return Err((span, "net: gateway needs address".to_owned())),
            (Some(address), Some(gateway)) if !address.contains(gateway) => {
                let words = format!("net: gateway {gateway} is not in the network of {address}");
                return Err((span, words));
            }
            _ => {}
        }
        let switch = keys.switch.unwrap_or_else(|| DEFAULT_SWITCH.to_owned());
        if !is_switch_name(&switch) {
            let words = format!("net: switch '{switch}' must be 1 to 31 characters a-z, 0-9, '-'");
            return Err((span, words));
        }
        Ok(NetFile {
            line: line(span.start),
            mac: keys.mac,
            switch,
            uplink: keys.uplink.unwrap_or(false),
            address: keys.address,
            gateway: keys.gateway,
        })
    }
}

fn mac<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Mac>, D::Error> {
    let text = String::deserialize(deserializer)?;
    match Mac::parse(&text.to_ascii_lowercase()).filter(|mac| mac.is_unicast()) {
        Some(mac) => Ok(Some(mac)),
        None => Err(de::Error::custom(format_args!(
            "'{text}' is no interface's address like '52:54:00:12:34:56'"
        ))),
    }
}

fn cidr<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Ipv4Cidr>, D::Error> {
    let text = String::deserialize(deserializer)?;
    match Ipv4Cidr::parse(&text) {
        Some(address) => Ok(Some(address)),
        None => Err(de::Error::custom(format_args!(
            "'{text}' is no host's address and network size like '10.0.2.15/24'"
        ))),
    }
}
