//! What the commands do and print.

use super::manage::{Manage, ManageError, VmSummary};
use super::parse::{Action, Command, Typed, parse};
use super::{Terminal, disks, nets, top};
use crate::console::Output;
use crate::log;
use crate::sched::fair::DEFAULT_WEIGHT;
use abi::hypercall::VcpuStat;
use abi::run::ExitReason;
use alloc::string::{String, ToString};
use core::fmt::{self, Write as _};
use core::time::Duration;

const HELP: &str = "\
vm list             all VMs: state, vCPUs, memory, kind, time since start
vm top              CPU time and exits of running VMs since the last vm top
vm stat NAME        exits by reason, memory, weight, run time of a VM; its devices, with rates
vm console NAME     attaches a VM's console; Ctrl-] comes back here
vm start NAME       starts a stopped VM
vm stop NAME        ends a VM at once, whatever it is doing, and frees its memory
vm restart NAME     powers a VM off and starts it again
vm destroy NAME     the same as vm stop
vm weight NAME N    changes a VM's share of the CPUs: 1 to 1000, 100 is usual
log                 the host's log
mem                 where the machine's memory is
cpu                 what the machine's CPUs do
disk                the machine's disks: size, partitions, requests
disk check NAME     reads the first MiB of a disk; the log tells its CRC-32
disk fail NAME N    lets the next N requests to a disk fail, to test who uses it
net                 virtual switches: ports, addresses, packets, drops
probe ADDR          reads physical address ADDR as the hostvisor
scan WORD           counts the 64-bit words in all readable RAM whose complement is WORD
shutdown            ends all VMs and switches the machine off
help                this list
";

/// What `vm stat` calls an exit.
const fn exit_name(reason: ExitReason) -> &'static str {
    match reason {
        ExitReason::Irq => "interrupt",
        ExitReason::Wfi => "wfi",
        ExitReason::MmioRead => "mmio read",
        ExitReason::MmioWrite => "mmio write",
        ExitReason::Sgi => "sgi",
        ExitReason::CpuOn => "psci cpu on",
        ExitReason::CpuOff => "psci cpu off",
        ExitReason::SystemOff => "psci system off",
        ExitReason::SystemReset => "psci system reset",
        ExitReason::Timer => "physical timer",
        ExitReason::MemFault => "memory fault",
        ExitReason::Wfe => "wfe",
        ExitReason::SError => "serror",
    }
}

/// Names of traps that the core answers by itself, in the order of [`VcpuStat`].
const CORE_TRAPS: [&str; VcpuStat::COUNT] = [
    "hypercall",
    "system register",
    "fp/simd switch",
    "exception injected",
];

/// Lets `write!` print on a terminal.
pub(super) struct Printer<'a>(&'a mut dyn Terminal);

impl fmt::Write for Printer<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        Output::write(self.0, text.as_bytes());
        Ok(())
    }
}

/// Runs one line.
pub fn execute(line: &str, manage: &mut dyn Manage, terminal: &mut dyn Terminal) {
    let out = &mut Printer(terminal);
    // Printing cannot fail: see `Printer`.
    let _ = match parse(line) {
        Ok(None) => Ok(()),
        Ok(Some(command)) => run(command, manage, out),
        Err(error) => writeln!(out, "{error}"),
    };
}

fn run(command: Command<'_>, manage: &mut dyn Manage, out: &mut Printer<'_>) -> fmt::Result {
    match command {
        Command::Help => out.write_str(HELP),
        Command::List => list(manage, out),
        Command::Top => top::show(&manage.usage(), manage.frequency(), out),
        Command::Vm(action, name) => vm(action, name, None, manage, out),
        Command::Weight(name, weight) => vm(Action::Weight, name, Some(weight), manage, out),
        Command::Log => show_log(out),
        Command::Memory => memory(manage, out),
        Command::Cpus => cpus(manage, out),
        Command::Probe(address) => match manage.probe(address) {
            Ok(value) => writeln!(out, "{:#x}: {value:#018x}", address & !7),
            Err(fault) => writeln!(out, "probe {address:#x}: fault: {fault}"),
        },
        Command::Scan(complement) => match manage.scan(complement) {
            Ok(scan) => writeln!(
                out,
                "scan: {} pages read, {} refused, {} words found",
                scan.read, scan.refused, scan.found
            ),
            Err(error) => writeln!(out, "scan: {error}"),
        },
        Command::Disks => disks::list(manage, out),
        Command::Nets => nets::list(manage, out),
        Command::CheckDisk(name) => match manage.check_disk(name) {
            Ok(()) => Ok(()),
            Err(error) => writeln!(out, "disk check: {error}"),
        },
        Command::FailDisk(name, count) => match manage.fail_disk(name, count) {
            Ok(()) => Ok(()),
            Err(error) => writeln!(out, "disk fail: {error}"),
        },
        Command::Shutdown => {
            manage.shutdown();
            Ok(())
        }
    }
}

fn vm(
    action: Action,
    name: &str,
    weight: Option<u32>,
    manage: &mut dyn Manage,
    out: &mut Printer<'_>,
) -> fmt::Result {
    let vms = manage.list();
    let Some((index, summary)) = vms.iter().enumerate().find(|(_, vm)| vm.name == name) else {
        let error = ManageError::NoSuchVm(Typed(name).to_string());
        return refused(action, &error, out);
    };
    let outcome = match action {
        Action::Stat => return stat(summary, manage, out),
        Action::Console => {
            out.0.attach(index);
            return Ok(());
        }
        Action::Stop => manage.stop(name),
        Action::Start => manage.start(name),
        Action::Restart => manage.restart(name),
        Action::Destroy => manage.destroy(name),
        Action::Weight => manage.set_weight(name, weight.unwrap_or(DEFAULT_WEIGHT)),
    };
    outcome.or_else(|error| refused(action, &error, out))
}

fn refused(action: Action, error: &ManageError, out: &mut Printer<'_>) -> fmt::Result {
    writeln!(out, "vm {}: {error}", action.name())
}

fn list(manage: &dyn Manage, out: &mut Printer<'_>) -> fmt::Result {
    let vms = manage.list();
    if vms.is_empty() {
        return writeln!(out, "no VMs: the bundle has none");
    }
    let width = vms.iter().map(|vm| vm.name.len()).fold(4, usize::max);
    writeln!(
        out,
        "{:width$}  STATE     VCPUS  MEMORY  KIND       UPTIME",
        "NAME"
    )?;
    for vm in &vms {
        write!(out, "{:width$}  {:8}  ", vm.name, vm.state)?;
        // A broken bundle entry has no vCPUs.
        if vm.vcpus == 0 {
            write!(out, "{:>5}  {:>6}  {:9}  ", '-', '-', "-")?;
        } else {
            write!(
                out,
                "{:>5}  {:>6}  {:9}  ",
                vm.vcpus,
                Size(vm.memory),
                kind(vm)
            )?;
        }
        match vm.uptime_ticks {
            Some(ticks) => writeln!(out, "{}", Clock(time(ticks, manage.frequency())))?,
            None => writeln!(out, "-")?,
        }
    }
    Ok(())
}

fn stat(vm: &VmSummary, manage: &mut dyn Manage, out: &mut Printer<'_>) -> fmt::Result {
    let stat = match manage.stat(&vm.name) {
        Ok(stat) => stat,
        Err(error) => return refused(Action::Stat, &error, out),
    };
    let vm = &stat.summary;
    writeln!(
        out,
        "{}: {}, {}, started {} times",
        vm.name,
        vm.state,
        kind(vm),
        stat.starts
    )?;
    writeln!(out, "  memory              {:>12}", Size(vm.memory))?;
    if let Some(ticks) = vm.uptime_ticks {
        writeln!(
            out,
            "  up                  {:>12}",
            Clock(time(ticks, manage.frequency()))
        )?;
    }
    if let Some(end) = &stat.end {
        writeln!(out, "  ended last          {end}")?;
    }
    writeln!(out, "  weight              {:>12}", stat.weight)?;
    writeln!(out, "  affinity            {:>12}", stat.affinity)?;
    let each = stat.run_ticks.iter().zip(&stat.wait_ticks).enumerate();
    for (vcpu, (&run, &wait)) in each {
        for (name, ticks) in [("run", run), ("wait", wait)] {
            let seconds = Seconds(time(ticks, manage.frequency()));
            let label = alloc::format!("{name} time vCPU {vcpu}");
            writeln!(out, "  {label:20}{seconds:>12} s")?;
        }
    }
    let total = |counts: &[u64]| counts.iter().fold(0_u64, |sum, n| sum.saturating_add(*n));
    writeln!(out, "exits to the hostvisor{:>12}", total(&stat.exits))?;
    for (reason, count) in (0..).map_while(ExitReason::decode).zip(stat.exits) {
        writeln!(out, "  {:20}{count:>12}", exit_name(reason))?;
    }
    writeln!(out, "traps in the core     {:>12}", total(&stat.core))?;
    for (name, count) in CORE_TRAPS.into_iter().zip(stat.core) {
        writeln!(out, "  {name:20}{count:>12}")?;
    }
    for (index, device) in stat.devices.iter().enumerate() {
        write!(out, "device {}", device.name)?;
        if let Some(before) = &stat.before {
            let span = Seconds(time(before.ticks, manage.frequency()));
            write!(out, ", a second in the last {span} s")?;
        }
        writeln!(out)?;
        for (counter, &(name, count)) in device.counters.iter().enumerate() {
            write!(out, "  {name:20}{count:>12}")?;
            if let Some(before) = &stat.before {
                let rate = before.rate(index, counter, count, manage.frequency());
                write!(out, "{rate:>12}/s")?;
            }
            writeln!(out)?;
        }
        writeln!(out, "  {:20}{:>12}", "violations", device.violations)?;
    }
    Ok(())
}

fn memory(manage: &dyn Manage, out: &mut Printer<'_>) -> fmt::Result {
    let stat = manage.memory();
    let kib = |bytes: u64| bytes >> 10;
    for (name, bytes) in [
        ("ram", stat.ram),
        ("corevisor", stat.core),
        ("hostvisor", stat.host),
        ("VMs", stat.vms),
        ("free", stat.free),
    ] {
        writeln!(out, "{name:10} {:>12} KiB", kib(bytes))?;
    }
    writeln!(out, "free frames{:>12}", stat.free_frames)?;
    writeln!(out, "pool frames{:>12}", stat.pool_frames)?;
    let (used, all) = (kib(stat.heap_used), kib(stat.heap_total));
    writeln!(out, "heap       {used:>12} KiB of {all} KiB")
}

fn cpus(manage: &dyn Manage, out: &mut Printer<'_>) -> fmt::Result {
    writeln!(
        out,
        "CPU  MPIDR       BUSY          IDLE          LOAD  QUEUE"
    )?;
    for cpu in manage.cpus() {
        let seconds = |ticks| Seconds(time(ticks, manage.frequency()));
        let busy = u128::from(cpu.busy_ticks);
        let load = busy
            .saturating_mul(100)
            .checked_div(busy.saturating_add(cpu.idle_ticks.into()));
        writeln!(
            out,
            "{:<3}  {:#010x}  {:>10} s  {:>10} s  {:>3}%  {:>5}",
            cpu.index,
            cpu.mpidr,
            seconds(cpu.busy_ticks),
            seconds(cpu.idle_ticks),
            load.unwrap_or_default(),
            cpu.queue
        )?;
    }
    Ok(())
}

fn show_log(out: &mut Printer<'_>) -> fmt::Result {
    // Not printed while the log is read: the terminal shows new lines by itself.
    let mut lines = String::new();
    log::for_each_line(out.0.log(), |line| {
        lines.push_str(line);
        lines.push('\n');
    });
    out.write_str(&lines)
}

const fn kind(vm: &VmSummary) -> &'static str {
    if vm.protected { "protected" } else { "open" }
}

/// Counter ticks as time.
pub(super) fn time(ticks: u64, frequency: u64) -> Duration {
    let nanos = u128::from(ticks)
        .saturating_mul(1_000_000_000)
        .checked_div(frequency.into());
    Duration::from_nanos(nanos.and_then(|n| n.try_into().ok()).unwrap_or_default())
}

/// Time as `h:mm:ss`.
struct Clock(Duration);

impl fmt::Display for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs();
        let text = alloc::format!(
            "{}:{:02}:{:02}",
            seconds / 3600,
            seconds / 60 % 60,
            seconds % 60
        );
        f.pad(&text)
    }
}

/// Time as seconds and milliseconds. Integers only: the hostvisor has no floating point.
pub(super) struct Seconds(pub(super) Duration);

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&alloc::format!(
            "{}.{:03}",
            self.0.as_secs(),
            self.0.subsec_millis()
        ))
    }
}

/// Bytes in the largest unit that divides them: `512M`.
pub(super) struct Size(pub(super) u64);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [(30, "G"), (20, "M"), (10, "K")];
        let fits = |(shift, _): &(u32, &str)| self.0 != 0 && self.0.trailing_zeros() >= *shift;
        let (shift, unit) = units.into_iter().find(fits).unwrap_or((0, ""));
        f.pad(&alloc::format!("{}{unit}", self.0 >> shift))
    }
}

#[cfg(test)]
#[path = "commands_tests.rs"]
mod tests;
