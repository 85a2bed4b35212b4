//! One run of the operations: what QEMU loads, and what the guest says.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::contender::Contender;
use super::emulator::{self, HOST_APPEND, Images, Machine, Paths, about, present};
use super::operation::{OPERATIONS, Operation};
use super::sample::{Figure, guest_lines, plugin_lines};
use crate::{assign, pack, vmfile};

/// Memory of the guest, the same for all.
const GUEST_MEMORY: &str = "512M";
/// One run.
#[derive(Debug)]
pub(super) struct Job<'a> {
    pub(super) contender: Contender,
    /// CPUs of the machine.
    pub(super) cpus: u32,
    /// QEMU's name of the processor.
    pub(super) cpu: &'a str,
    /// Names of the operations.
    pub(super) operations: Vec<&'static str>,
    /// Split by exception level.
    pub(super) split: bool,
    pub(super) timeout: Duration,
    pub(super) paths: &'a Paths,
}

/// What a run brought.
#[derive(Debug)]
pub(super) struct Outcome {
    /// The command line, as a shell takes it.
    pub(super) command: String,
    /// What the KVM host says about itself.
    pub(super) host: Option<String>,
    pub(super) figures: BTreeMap<String, Figure>,
}

/// The operations of `contender` on a machine of `cpus` CPUs, of those that `chosen` takes.
pub(super) fn operations(
    contender: Contender,
    cpus: u32,
    chosen: impl Fn(&str) -> bool,
) -> Vec<&'static str> {
    let fits = |o: &&Operation| {
        o.cpus == cpus && (o.native || contender != Contender::Native) && chosen(o.name)
    };
    OPERATIONS.iter().filter(fits).map(|o| o.name).collect()
}

impl Job<'_> {
    fn file(&self, ending: &str) -> PathBuf {
        let name = format!("{}-{}cpu.{ending}", self.contender.name(), self.cpus);
        self.paths.of_run(&name)
    }

    /// vCPUs: two also on one CPU, where they take turns. The machine itself has no more than it has.
    fn vcpus(&self) -> u32 {
        if self.contender == Contender::Native {
            self.cpus
        } else {
            2
        }
    }

    fn append(&self) -> String {
        format!("test=micro micro={}", self.operations.join(","))
    }

    /// Runs it. The error says why there are no figures.
    pub(super) fn run(&self) -> Result<Outcome, String> {
        let log = self.file("log");
        let folder = log.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(folder).map_err(|e| about(folder, &e))?;
        let machine = Machine {
            contender: self.contender,
            cpus: self.cpus,
            cpu: self.cpu,
            megabytes: 2048,
            disk: true,
            seed: 1,
        };
        let plugin = self.plugin()?;
        let line = machine.arguments(plugin.as_deref(), self.images()?);
        let command = emulator::command_line(&self.paths.qemu, &line);
        emulator::execute(&self.paths.qemu, &line, &log, self.timeout)?;
        let console = fs::read(&log).map_err(|e| about(&log, &e))?;
        let console = String::from_utf8_lossy(&console);
        self.verdict(&console)?;
        let lines = guest_lines(&console)?;
        let mut splits = match self.split {
            true => {
                let file = self.file("levels");
                let text = fs::read_to_string(&file).map_err(|e| about(&file, &e))?;
                let typical = |id| {
                    lines.get(&id).is_some_and(|(name, _)| {
                        OPERATIONS.iter().any(|o| o.typical && o.name == name)
                    })
                };
                plugin_lines(&text, self.contender == Contender::Native, typical)?
            }
            false => BTreeMap::new(),
        };
        let mut figures = BTreeMap::new();
        for (id, (name, mut figure)) in lines {
            if let Figure::Measured(sample) = &mut figure {
                sample.split = splits.remove(&id);
            }
            figures.insert(name, figure);
        }
        if let Some(missing) = self.operations.iter().find(|&&o| !figures.contains_key(o)) {
            return Err(format!("the guest said nothing about {missing}"));
        }
        Ok(Outcome {
            command,
            host: emulator::host_line(&console),
            figures,
        })
    }

    /// Whether all of it ran, in the mode it is measured for.
    fn verdict(&self, console: &str) -> Result<(), String> {
        let log = self.file("log");
        let fail = |why: &str| Err(format!("{why} (console: {})", log.display()));
        emulator::check_mode(self.contender, console).or_else(|why| fail(&why))?;
        let passed = console.matches("TESTS done: 1 passed, 0 failed").count();
        if passed != self.host_runs().len().max(1) {
            let failure = console
                .lines()
                .rev()
                .find(|l| l.contains("FAIL") || l.contains("panic"));
            return fail(failure.map_or("the guest did not finish", str::trim));
        }
        Ok(())
    }

    /// What the KVM host runs: the operations, in one guest for each size of the host's pages.
    fn host_runs(&self) -> Vec<String> {
        if self.contender.kvm().is_none() {
            return Vec::new();
        }
        let of = |huge: bool| {
            let mut names = Vec::new();
            for o in OPERATIONS.iter().filter(|o| o.huge_pages == huge) {
                names.extend(
                    self.operations
                        .iter()
                        .filter(|&&name| name == o.name)
                        .copied(),
                );
            }
            let pages = if huge { "always" } else { "never" };
            (!names.is_empty()).then(|| format!("{pages}:{}", names.join(",")))
        };
        [of(false), of(true)].into_iter().flatten().collect()
    }

    /// The plugin with its options, if it is wanted.
    fn plugin(&self) -> Result<Option<String>, String> {
        if !self.split {
            return Ok(None);
        }
        let plugin = self.paths.plugin().ok_or("the plugin is missing")?;
        let out = self.file("levels");
        Ok(Some(format!("{},out={}", plugin.display(), out.display())))
    }

    fn guest(&self) -> PathBuf {
        self.paths.build.join("test-guest.bin")
    }

    fn images(&self) -> Result<Images, String> {
        let guest = present(self.guest(), "make test-guest")?;
        match self.contender.kvm() {
            None if self.contender == Contender::Native => Ok(Images {
                kernel: guest,
                initrd: None,
                append: format!("platform=bare {}", self.append()),
            }),
            None => Ok(Images {
                kernel: self.paths.payload()?,
                initrd: Some(self.bundle()?),
                append: "exit-when-idle console=micro".to_owned(),
            }),
            Some((mode, _)) => {
                let vcpus = self.vcpus();
                let runs = self.host_runs().join("/");
                Ok(Images {
                    kernel: present(self.paths.kernel(), "make guest")?,
                    initrd: Some(self.host(&guest)?),
                    append: format!("{HOST_APPEND} {mode} bench.vcpus={vcpus} bench.runs={runs}"),
                })
            }
        }
    }

    /// The bundle of the guest.
    fn bundle(&self) -> Result<PathBuf, String> {
        let description = self.file("toml");
        let guest = fs::canonicalize(self.guest()).map_err(|e| about(&self.guest(), &e))?;
        let text = format!(
            "name = \"micro\"\nformat = \"flat\"\nkernel = {:?}\nvcpus = {}\nmemory = \"{GUEST_MEMORY}\"\n\
             append = \"{}\"\nprotected = {}\non-reboot = \"stop\"\nentropy = false\n\
             [[net]]\nswitch = \"bench\"\n[[net]]\nswitch = \"bench\"\n\
             [[disk]]\nserial = \"bench\"\n",
            guest.display().to_string(),
            self.vcpus(),
            self.append(),
            self.contender == Contender::Protected
        );
        fs::write(&description, text).map_err(|e| about(&description, &e))?;
        let pack = || {
            let vms = [vmfile::read(&description)?];
            pack::pack(&vms, &assign::assign(&vms)?)
        };
        let file = self.file("bundle");
        let bytes = pack().map_err(|e| e.to_string())?;
        fs::write(&file, bytes).map_err(|e| about(&file, &e))?;
        Ok(file)
    }

    /// The KVM host's initramfs with the guest in it.
    fn host(&self, guest: &Path) -> Result<PathBuf, String> {
        let host = self.paths.host()?;
        let mut bytes = fs::read(&host).map_err(|e| about(&host, &e))?;
        let image = fs::read(guest).map_err(|e| about(guest, &e))?;
        // The kernel unpacks archives that follow each other.
        let mut archive = bundle::newc::Writer::new();
        archive
            .file("test-guest.bin", &image)
            .map_err(|e| e.to_string())?;
        bytes.extend(archive.finish());
        let file = self.paths.of_run("host-and-guest.cpio");
        fs::write(&file, bytes).map_err(|e| about(&file, &e))?;
        Ok(file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(contender: Contender, cpus: u32, paths: &Paths) -> Job<'_> {
        Job {
            contender,
            cpus,
            cpu: "neoverse-n1",
            operations: operations(contender, cpus, |_| true),
            split: false,
            timeout: Duration::from_secs(1),
            paths,
        }
    }

    fn paths() -> Paths {
        Paths {
            qemu: "/nonexistent/qemu".into(),
            build: "/nonexistent".into(),
        }
    }

    #[test]
    fn the_2_mb_fault_has_a_host_with_2_mb_pages_of_its_own() {
        let paths = paths();
        let runs = job(Contender::KvmVhe, 1, &paths).host_runs();
        assert_eq!(runs.len(), 2);
        assert!(runs[0].starts_with("never:null,") && !runs[0].contains("fault-2m"));
        assert_eq!(runs[1], "always:fault-2m");
        assert_eq!(
            job(Contender::KvmVhe, 2, &paths).host_runs(),
            ["never:ipi-running,ipi-blocked"]
        );
    }

    #[test]
    fn a_missing_file_names_itself_and_what_makes_it() {
        let error = job(Contender::Native, 1, &paths()).images().unwrap_err();
        assert_eq!(
            error,
            "/nonexistent/test-guest.bin is missing: run 'make test-guest'"
        );
    }

    #[test]
    fn what_did_not_end_well_gives_no_figures() {
        let paths = paths();
        let job = job(Contender::KvmVhe, 2, &paths);
        let done = "TESTS done: 1 passed, 0 failed, 0 skipped\n";
        let host = |mode: &str| {
            format!("host: 6.12, kvm [1]: {mode} mode initialized successfully\n{done}")
        };
        assert!(job.verdict(&host("VHE")).is_ok());
        assert!(job.verdict(&host("Hyp nVHE")).is_err());
        assert!(
            job.verdict(&host("VHE").replace("1 passed, 0 failed", "0 passed, 1 failed"))
                .is_err()
        );
        assert!(job.verdict("").is_err());
    }
}
