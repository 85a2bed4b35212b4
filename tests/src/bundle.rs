//! Bundles made by hand, good and bad: the tool refuses to make the bad ones.

use std::fmt::Write;

/// A file of a newc archive (cpio(5), "New ASCII Format").
#[must_use]
pub fn newc_entry(name: &str, data: &[u8]) -> Vec<u8> {
    let mode: u32 = if name == "TRAILER!!!" { 0 } else { 0o100_644 };
    let mut header = String::from("070701");
    let fields = [
        0,
        mode,
        0,
        0,
        1,
        0,
        data.len() as u32,
        0,
        0,
        0,
        0,
        name.len() as u32 + 1,
        0,
    ];
    for field in fields {
        let _ = write!(header, "{field:08X}");
    }
    let mut entry = header.into_bytes();
    entry.extend_from_slice(name.as_bytes());
    entry.push(0);
    entry.resize(entry.len().next_multiple_of(4), 0);
    entry.extend_from_slice(data);
    entry.resize(entry.len().next_multiple_of(4), 0);
    entry
}

/// One VM of a hand-made bundle.
#[derive(Clone, Debug)]
pub struct RawVm {
    /// The manifest's keys and values, in order.
    pub manifest: Vec<(String, String)>,
    /// The kernel file's contents.
    pub kernel: Vec<u8>,
}

impl RawVm {
    /// A correct flat VM of 32 MB with one vCPU.
    #[must_use]
    pub fn flat(name: &str, append: &str, kernel: &[u8]) -> Self {
        let kernel_bytes = kernel.len().to_string();
        let pairs = [
            ("name", name),
            ("format", "flat"),
            ("vcpus", "1"),
            ("memory", "134217728"),
            ("protected", "true"),
            ("autostart", "true"),
            ("on-reboot", "restart"),
            ("append", append),
            ("weight", "100"),
            ("affinity", "all"),
            ("entropy", "true"),
            ("console", "pl011"),
            ("kernel", &kernel_bytes),
            ("initrd", "0"),
        ];
        Self {
            manifest: pairs.map(|(k, v)| (k.to_owned(), v.to_owned())).to_vec(),
            kernel: kernel.to_vec(),
        }
    }

    /// Changes a value of the manifest.
    #[must_use]
    pub fn set(mut self, key: &str, value: &str) -> Self {
        for (_, old) in self.manifest.iter_mut().filter(|(k, _)| k == key) {
            value.clone_into(old);
        }
        self
    }

    /// Takes a key out of the manifest.
    #[must_use]
    pub fn without(mut self, key: &str) -> Self {
        self.manifest.retain(|(k, _)| k != key);
        self
    }

    /// Adds a key to the manifest.
    #[must_use]
    pub fn with(mut self, key: &str, value: &str) -> Self {
        self.manifest.push((key.to_owned(), value.to_owned()));
        self
    }

    fn manifest_text(&self) -> String {
        self.manifest
            .iter()
            .fold(String::new(), |mut text, (key, value)| {
                let _ = writeln!(text, "{key} = {value}");
                text
            })
    }
}

/// Packs VMs as they are, right or wrong.
#[must_use]
pub fn pack(vms: &[RawVm]) -> Vec<u8> {
    let mut bytes = newc_entry("cloister", b"cloister-bundle 1\n");
    for (index, vm) in vms.iter().enumerate() {
        bytes.extend(newc_entry(
            &format!("vm{index:02}/manifest"),
            vm.manifest_text().as_bytes(),
        ));
        bytes.extend(newc_entry(&format!("vm{index:02}/kernel"), &vm.kernel));
    }
    bytes.extend(newc_entry("TRAILER!!!", b""));
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_padded_to_four_bytes_and_carry_their_sizes() {
        for len in 0..9 {
            let entry = newc_entry("ab", &vec![7; len]);
            assert_eq!(entry.len() % 4, 0);
            assert_eq!(&entry[54..62], format!("{len:08X}").as_bytes());
        }
    }
}
