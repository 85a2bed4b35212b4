//! A VM as a test describes it.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use crate::artifacts::Artifact;
use crate::bundle::newc_entry;

/// What goes into a VM's TOML file.
#[derive(Clone, Debug)]
pub struct VmSpec {
    name: String,
    kernel: PathBuf,
    initrd: Option<PathBuf>,
    program: Option<PathBuf>,
    flat: bool,
    vcpus: u32,
    memory: String,
    append: String,
    protected: bool,
    autostart: bool,
    on_reboot: &'static str,
    more: String,
    /// Tables, which come last.
    tables: String,
}

/// Asks for a virtio entropy device.
const ENTROPY: &str = "entropy = true\n";

impl VmSpec {
    fn new(name: &str, kernel: PathBuf) -> Self {
        Self {
            name: name.to_owned(),
            kernel,
            initrd: None,
            program: None,
            flat: false,
            vcpus: 1,
            memory: "128M".to_owned(),
            append: String::new(),
            protected: true,
            autostart: true,
            on_reboot: "restart",
            more: String::new(),
            tables: String::new(),
        }
    }

    /// Debian's kernel `kernel` with the busybox initramfs, which carries out `steps`
    /// (`guest/README.md`).
    #[must_use]
    pub fn debian(name: &str, kernel: Artifact, steps: &str) -> Self {
        Self {
            initrd: Some(Artifact::Initrd.path()),
            memory: "256M".to_owned(),
            append: format!("console=ttyAMA0 panic=-1 cloister.test={steps}"),
            ..Self::new(name, kernel.path())
        }
    }

    /// Appends `program` to the initramfs, as `/program`.
    #[must_use]
    pub fn program(mut self, program: Artifact) -> Self {
        self.program = Some(program.path());
        self
    }

    /// The bare-metal test guest, which runs the tests named.
    #[must_use]
    pub fn test_guest(name: &str, tests: &str) -> Self {
        Self {
            flat: true,
            append: format!("test={tests}"),
            more: ENTROPY.to_owned(),
            ..Self::new(name, Artifact::TestGuest.path())
        }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// vCPUs.
    #[must_use]
    pub fn vcpus(mut self, vcpus: u32) -> Self {
        self.vcpus = vcpus;
        self
    }

    /// Memory, with its unit.
    #[must_use]
    pub fn memory(mut self, memory: &str) -> Self {
        memory.clone_into(&mut self.memory);
        self
    }

    /// More of the kernel's command line.
    #[must_use]
    pub fn append(mut self, more: &str) -> Self {
        self.append = format!("{} {more}", self.append);
        self
    }

    /// An open VM instead of a protected one.
    #[must_use]
    pub fn open(mut self) -> Self {
        self.protected = false;
        self
    }

    /// Waits for `vm start`.
    #[must_use]
    pub fn not_started(mut self) -> Self {
        self.autostart = false;
        self
    }

    /// Ends at a reset instead of starting again.
    #[must_use]
    pub fn stop_on_reboot(mut self) -> Self {
        self.on_reboot = "stop";
        self
    }

    /// Its share of the CPUs.
    #[must_use]
    pub fn weight(mut self, weight: u32) -> Self {
        let _ = writeln!(self.more, "weight = {weight}");
        self
    }

    /// The CPUs it may run on.
    #[must_use]
    pub fn affinity(mut self, cpus: &[u32]) -> Self {
        let _ = writeln!(self.more, "affinity = {cpus:?}");
        self
    }

    /// A disk: the raw image `path`.
    #[must_use]
    pub fn disk(self, path: &Path) -> Self {
        self.disk_table(&format!("image = \"{}\"", path.display()))
    }

    /// A virtio entropy device, which a protected VM has only if it asks for it.
    #[must_use]
    pub fn entropy(mut self) -> Self {
        self.more.push_str(ENTROPY);
        self
    }

    /// A virtio console beside the PL011.
    #[must_use]
    pub fn virtio_console(mut self) -> Self {
        self.more.push_str("console = \"virtio\"\n");
        self
    }

    /// A disk, as the lines of its table say.
    #[must_use]
    pub fn disk_table(mut self, lines: &str) -> Self {
        let _ = writeln!(self.tables, "\n[[disk]]\n{lines}");
        self
    }

    /// A network interface at `switch`, with what else its table says.
    #[must_use]
    pub fn net(mut self, switch: &str, lines: &str) -> Self {
        let _ = writeln!(self.tables, "\n[[net]]\nswitch = \"{switch}\"\n{lines}");
        self
    }

    /// The TOML text.
    #[must_use]
    pub fn toml(&self) -> String {
        let mut text = format!(
            "name = \"{}\"\nkernel = \"{}\"\nvcpus = {}\nmemory = \"{}\"\nformat = \"{}\"\nappend = \"{}\"\n",
            self.name,
            self.kernel.display(),
            self.vcpus,
            self.memory,
            if self.flat { "flat" } else { "linux" },
            self.append,
        );
        if let Some(initrd) = &self.initrd {
            let _ = writeln!(text, "initrd = \"{}\"", initrd.display());
        }
        let _ = write!(
            text,
            "protected = {}\nautostart = {}\non-reboot = \"{}\"\n",
            self.protected, self.autostart, self.on_reboot
        );
        text.push_str(&self.more);
        text.push_str(&self.tables);
        text
    }

    /// Writes the TOML file of VM number `index` into `dir` and names it.
    ///
    /// # Panics
    /// If it cannot be written.
    #[must_use]
    pub fn write_to(&self, dir: &Path, index: usize) -> PathBuf {
        let mut spec = self.clone();
        if let Some(program) = &self.program {
            let path = dir.join(format!("{index}-{}.initrd", self.name));
            write(&path, &with_program(self.initrd.as_deref(), program));
            spec.initrd = Some(path);
        }
        let path = dir.join(format!("{index}-{}.toml", self.name));
        write(&path, spec.toml().as_bytes());
        path
    }
}

/// The initramfs with one more file: Linux unpacks archives that follow each other, packed or not.
fn with_program(initrd: Option<&Path>, program: &Path) -> Vec<u8> {
    let mut all = initrd.map_or(Vec::new(), read);
    all.resize(all.len().next_multiple_of(4), 0);
    all.extend(newc_entry("program", &read(program)));
    all.extend(newc_entry("TRAILER!!!", &[]));
    all
}

fn read(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn write(path: &Path, bytes: &[u8]) {
    std::fs::write(path, bytes).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
}
