//! `vm top`: who uses the machine.

use super::commands::{Printer, Seconds, time};
use super::manage::{Usage, per_second};
use core::fmt::{self, Write as _};

/// A share of one CPU, in per cent with one digit behind the point.
struct Percent {
    part: u64,
    whole: u64,
}

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let thousandths = u128::from(self.part)
            .saturating_mul(1000)
            .checked_div(self.whole.into())
            .unwrap_or_default();
        f.pad(&alloc::format!("{}.{}", thousandths / 10, thousandths % 10))
    }
}

/// Prints the table. 100 % is one CPU.
pub(super) fn show(usage: &Usage, frequency: u64, out: &mut Printer<'_>) -> fmt::Result {
    let span = time(usage.ticks, frequency);
    if usage.vms.is_empty() {
        return writeln!(out, "no VM runs");
    }
    let width = usage.vms.iter().map(|vm| vm.name.len()).fold(4, usize::max);
    writeln!(out, "in the last {} s:", Seconds(span))?;
    writeln!(
        out,
        "{:width$}  VCPUS  WEIGHT   CPU %  WAIT %         RUN        WAIT   EXITS/S",
        "NAME"
    )?;
    for vm in &usage.vms {
        let percent = |part| Percent {
            part,
            whole: usage.ticks,
        };
        let exits = per_second(vm.exits, usage.ticks, frequency);
        writeln!(
            out,
            "{:width$}  {:>5}  {:>6}  {:>6}  {:>6}  {:>8} s  {:>8} s  {exits:>8}",
            vm.name,
            vm.vcpus,
            vm.weight,
            percent(vm.run_ticks),
            percent(vm.wait_ticks),
            Seconds(time(vm.run_ticks, frequency)),
            Seconds(time(vm.wait_ticks, frequency)),
        )?;
    }
    Ok(())
}
