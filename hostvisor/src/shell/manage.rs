//! What management (the shell) can ask of the machine: plain data and one trait, nothing of how it is
//! done, so that the shell is tested against a fake.

use crate::net::switch::PortStat;
use crate::scan::Scan;
use crate::virtio::bus::DeviceStat;
use abi::hypercall::VcpuStat;
use abi::run::ExitReason;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

/// Where a VM is in its life.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum VmState {
    /// Defined by the bundle, holding no resources.
    Stopped,
    /// Memory is being filled.
    Starting,
    /// Its vCPUs run.
    Running,
    /// Its vCPUs are being stopped and its memory taken back.
    Stopping,
    /// The bundle's entry for it is unusable: it never starts.
    Broken,
}

impl fmt::Display for VmState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Stopped => "stopped",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Stopping => "stopping",
            Self::Broken => "broken",
        })
    }
}

/// One line of `vm list`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VmSummary {
    /// The bundle's name for it; `vmNN`, its folder, where that is unreadable.
    pub name: String,
    /// Where it is in its life.
    pub state: VmState,
    /// Number of vCPUs; 0 if the bundle's entry is unusable.
    pub vcpus: u32,
    /// Memory in bytes.
    pub memory: u64,
    /// True if its memory is private to it.
    pub protected: bool,
    /// Counter ticks since it was started, if it runs.
    pub uptime_ticks: Option<u64>,
}

/// What `vm stat` shows. Counters are those of the present run, or of the last one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VmStat {
    /// As in `vm list`.
    pub summary: VmSummary,
    /// How often it was started.
    pub starts: u64,
    /// Weight of each of its vCPUs; 0 if the bundle's entry is unusable.
    pub weight: u32,
    /// CPUs it may run on, in words.
    pub affinity: String,
    /// Time each of its vCPUs was on a CPU, in counter ticks.
    pub run_ticks: Vec<u64>,
    /// Time each of its vCPUs could have run and had no CPU, in counter ticks.
    pub wait_ticks: Vec<u64>,
    /// Exits that reached the hostvisor, by [`ExitReason`].
    pub exits: [u64; ExitReason::COUNT],
    /// Traps the core answered by itself, by [`VcpuStat`].
    pub core: [u64; VcpuStat::COUNT],
    /// Its virtio devices.
    pub devices: Vec<DeviceStat>,
    /// What they had counted before, if it runs.
    pub before: Option<Before>,
    /// Why it ended last, if it did.
    pub end: Option<String>,
}

/// What a VM's devices had counted when `vm stat` showed this run last; at its start, if it has not yet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Before {
    /// Counter ticks since then.
    pub ticks: u64,
    /// Its devices, in the same order; none stands for zeros.
    pub devices: Vec<DeviceStat>,
}

impl Before {
    /// How many a second of counter `counter` of device `device` since then, where it is `total` now.
    #[must_use]
    pub fn rate(&self, device: usize, counter: usize, total: u64, frequency: u64) -> u64 {
        let before = self
            .devices
            .get(device)
            .and_then(|d| d.counters.get(counter));
        let new = total.saturating_sub(before.map_or(0, |&(_, count)| count));
        let rate = per_second(new, self.ticks, frequency);
        rate.try_into().unwrap_or_default()
    }
}

/// How many a second `count` in `ticks` of a clock of `frequency` Hz are; 0 in no time.
pub(super) fn per_second(count: u64, ticks: u64, frequency: u64) -> u128 {
    u128::from(count)
        .saturating_mul(frequency.into())
        .checked_div(ticks.into())
        .unwrap_or_default()
}

/// What a VM has used of the machine in some time.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VmUsage {
    /// Its name.
    pub name: String,
    /// Number of its vCPUs.
    pub vcpus: usize,
    /// Weight of each of them.
    pub weight: u32,
    /// Ticks they were on a CPU, together.
    pub run_ticks: u64,
    /// Ticks they could have run and had no CPU, together.
    pub wait_ticks: u64,
    /// Exits that reached the hostvisor.
    pub exits: u64,
}

/// What `vm top` shows.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Usage {
    /// Counter ticks that the figures are for.
    pub ticks: u64,
    /// VMs that run, in bundle order.
    pub vms: Vec<VmUsage>,
}

/// What `mem` shows, in bytes unless said.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct MemoryStat {
    /// RAM of the machine.
    pub ram: u64,
    /// Kept by the corevisor.
    pub core: u64,
    /// Kept by the hostvisor: image, heap, device tree, bundle.
    pub host: u64,
    /// Held by VMs.
    pub vms: u64,
    /// Free.
    pub free: u64,
    /// Free 4 KiB frames.
    pub free_frames: u64,
    /// Free page-table frames of the corevisor's.
    pub pool_frames: u64,
    /// Heap in use.
    pub heap_used: u64,
    /// Heap in all.
    pub heap_total: u64,
}

/// One line of `cpu`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CpuStat {
    /// Index, counted from 0.
    pub index: usize,
    /// MPIDR_EL1 affinity fields.
    pub mpidr: u64,
    /// Ticks spent running vCPUs.
    pub busy_ticks: u64,
    /// Ticks spent idle.
    pub idle_ticks: u64,
    /// vCPUs waiting for this CPU.
    pub queue: usize,
}

/// One line of `disk`, and its partitions.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct DiskStat {
    /// Serial, else where it is.
    pub name: String,
    /// Size.
    pub bytes: u64,
    /// Takes no writes.
    pub read_only: bool,
    /// Does not answer any more.
    pub dead: bool,
    /// Requests so far.
    pub requests: u64,
    /// Those that failed.
    pub errors: u64,
    /// Requests that are under way or wait.
    pub in_flight: usize,
    /// Bytes read.
    pub read: u64,
    /// Bytes written.
    pub written: u64,
    /// Label and bytes of each partition.
    pub partitions: Vec<(String, u64)>,
}

/// Why a management command is refused.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ManageError {
    /// No VM has this name.
    NoSuchVm(String),
    /// The VM is in a state that forbids the command.
    BadState {
        /// The VM.
        name: String,
        /// Where it is.
        state: VmState,
    },
    /// Anything else, such as what is wrong with the bundle's entry: one line.
    Other(String),
}

impl fmt::Display for ManageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSuchVm(name) => write!(f, "no VM named '{name}' (vm list shows them)"),
            Self::BadState { name, state } => {
                let how = match state {
                    VmState::Stopped => " (vm start starts it)",
                    VmState::Running => " (vm stop or vm restart)",
                    VmState::Starting | VmState::Stopping => " (try again when it is done)",
                    VmState::Broken => " (log says why)",
                };
                write!(f, "VM '{name}' is {state}{how}")
            }
            Self::Other(what) => f.write_str(what),
        }
    }
}

impl core::error::Error for ManageError {}

/// A synchronous abort that a probe met.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fault {
    /// ESR_EL1.
    pub esr: u64,
    /// FAR_EL1.
    pub far: u64,
}

impl Fault {
    /// ISS.DFSC, the data fault status code (Arm ARM, ESR_ELx, ISS encoding for a Data Abort).
    #[must_use]
    pub const fn status(self) -> u64 {
        self.esr & 0x3f
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.status() {
            0x10 => "synchronous external abort",
            0x00..=0x03 => "address size fault",
            0x04..=0x07 => "translation fault",
            0x08..=0x0b => "access flag fault",
            0x0c..=0x0f => "permission fault",
            0x21 => "alignment fault",
            _ => "abort",
        };
        write!(f, "{what} at {:#x} (ESR {:#x})", self.far, self.esr)
    }
}

/// A virtual switch.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SwitchStat {
    /// Its name.
    pub name: String,
    /// Its ports.
    pub ports: Vec<PortStat>,
}

/// The machine, as management sees it. VMs go by their bundle name.
///
/// Life-cycle commands return once they are accepted; what became of them is told by a line in the
/// host log.
pub trait Manage {
    /// Counter ticks a second.
    fn frequency(&self) -> u64;
    /// All VMs, in bundle order: a VM's place is its number at the console.
    fn list(&self) -> Vec<VmSummary>;
    /// Counters of one VM. The next call's rates begin here.
    fn stat(&mut self, name: &str) -> Result<VmStat, ManageError>;
    /// Starts a stopped VM.
    fn start(&mut self, name: &str) -> Result<(), ManageError>;
    /// Stops a VM and frees what it holds.
    fn stop(&mut self, name: &str) -> Result<(), ManageError>;
    /// Stops a VM, if it runs, and starts it again.
    fn restart(&mut self, name: &str) -> Result<(), ManageError>;
    /// Ends a VM whatever it is doing, and frees what it holds.
    fn destroy(&mut self, name: &str) -> Result<(), ManageError>;
    /// Changes the weight of a VM's vCPUs, from 1 to [`crate::sched::fair::MAX_WEIGHT`], until the machine is
    /// switched off.
    fn set_weight(&mut self, name: &str, weight: u32) -> Result<(), ManageError>;
    /// What the VMs have used since this was asked last.
    fn usage(&mut self) -> Usage;
    /// Where the memory is.
    fn memory(&self) -> MemoryStat;
    /// The machine's CPUs.
    fn cpus(&self) -> Vec<CpuStat>;
    /// The machine's disks.
    fn disks(&self) -> Vec<DiskStat>;
    /// Starts reading the beginning of a disk; the log tells the outcome.
    fn check_disk(&self, name: &str) -> Result<(), ManageError>;
    /// The virtual switches.
    fn switches(&self) -> Vec<SwitchStat>;
    /// Lets the next `count` requests to a disk fail.
    fn fail_disk(&self, name: &str, count: u32) -> Result<(), ManageError>;
    /// Reads the 64-bit word at physical address `pa` (rounded down to 8 bytes).
    fn probe(&self, pa: u64) -> Result<u64, Fault>;
    /// Looks through all RAM for the word with this complement.
    fn scan(&self, complement: u64) -> Result<Scan, ManageError>;
    /// Stops all VMs, prints the verdict and switches the machine off.
    fn shutdown(&mut self);
}
