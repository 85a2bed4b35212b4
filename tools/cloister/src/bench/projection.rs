//! What counts would be in cycles of a real machine, the HP Moonshot m400, from published costs of single events.
//!
//! The source is Dall et al., "ARM Virtualization: Performance and Architectural Implications" (ISCA 2016): tables 2
//! and 3, cycles of an m400 (X-Gene 1, 2.4 GHz) under Linux 4.0. Its KVM switches all state at each exit, and its
//! table 3 says what saving and restoring each kind costs:
//!
//! - Xen's whole hypercall: 376. Saving and restoring general registers, 152 and 184, are in it; the rest, 40, is at
//!   most what an exception to EL2 and the way back cost beyond the instructions.
//! - EL1's system registers, of which that kernel switches 22: 230 to save and 511 to restore, (230 + 511) / 44 = 17
//!   for an access on average: 16 beyond the instruction.

use std::fmt::Write;

use super::contender::Contender;
use super::report::thousands;
use super::results::{ContenderResults, Results};
use super::sample::{Counts, Split};

/// Cycles of an exception to EL2 with its return, beside their instructions.
const EXIT: u64 = 376 - 152 - 184;
/// Cycles of an MRS or MSR, rounded, beside that of the instruction.
const REGISTER: u64 = (230 + 511 + 22) / 44 - 1;

/// The operations that are projected.
const SHOWN: [&str; 8] = [
    "hypercall",
    "psci-version",
    "id-register",
    "mmio-read",
    "gicd-read",
    "ipi-self",
    "timer",
    "ipi-running",
];
/// The contenders: an m400 has no VHE, and pKVM came up in a mode that needs it.
const COLUMNS: [Contender; 3] = [Contender::Open, Contender::Protected, Contender::KvmNvhe];

/// Cycles for what one context executed; `el2`: whether its exception returns end exits.
pub(super) fn cycles(counts: &Counts, el2: bool) -> u64 {
    let exits = if el2 { counts.exception_returns } else { 0 };
    counts.instructions + REGISTER * counts.system_registers + EXIT * exits
}

/// Cycles for all contexts of `split`.
fn of_split(split: &Split) -> u64 {
    let each = split
        .iter()
        .map(|(name, counts)| cycles(counts, name == "el2"));
    each.sum()
}

/// Cycles for one operation, in the run that needs fewest.
fn operation(contender: &ContenderResults, name: &str) -> Option<f64> {
    let runs = &contender.operation(name).filter(|o| o.cost.is_some())?.runs;
    let each = |run: &super::sample::Sample| {
        Some(of_split(run.split.as_ref()?) as f64 / run.rounds as f64)
    };
    runs.iter().filter_map(each).reduce(f64::min)
}

/// The report's part.
pub(super) fn markdown(results: &Results) -> String {
    let mut text = format!(
        "## Projection to cycles of an m400\n\n\
         Not measured: computed from the counts above. Cycles = instructions + {REGISTER} × system-register accesses \
         + {EXIT} × exits. The two\ncosts are published ones of the HP Moonshot m400 (X-Gene 1, 2.4 GHz): Dall et al., \
         [ARM Virtualization: Performance and Architectural\nImplications](https://www.cs.columbia.edu/~cdall/pubs/isca2016-dall.pdf), \
         ISCA 2016. Exit: Xen's hypercall without saving and restoring\ngeneral registers, 376 − 152 − 184. System register: \
         230 + 511 cycles to save and restore the 22 of EL1, 17 an access, one of\nwhich is the instruction. Everything else is \
         taken to need one cycle, and TLB misses and TLB maintenance, barriers and caches none.\n\n| operation |",
    );
    let columns: Vec<_> = COLUMNS
        .iter()
        .filter_map(|c| results.contenders.iter().find(|r| r.name == *c))
        .collect();
    for contender in &columns {
        let _ = write!(text, " {} |", contender.name.title());
    }
    let _ = writeln!(text, "\n|---|{}", "--:|".repeat(columns.len()));
    for name in SHOWN {
        let _ = write!(text, "| {name} |");
        for contender in &columns {
            let cycles = operation(contender, name).map_or_else(|| "–".to_owned(), thousands);
            let _ = write!(text, " {cycles} |");
        }
        text.push('\n');
    }
    text.push_str(
        "\nHow far to trust it: the paper's KVM needed 6,500 cycles for a hypercall, 3,250 + 181 of them for list registers, which on\n\
         an m400 (GICv2) are memory-mapped and slow to read, about 270 cycles each. Today's KVM and Cloister both touch them only when\n\
         an interrupt is pending, and as system registers on the machine measured here; so for operations with interrupts the projection\n\
         is too low, for all alike.\n",
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::sample::plugin_lines;

    #[test]
    fn exits_are_counted_once_and_registers_everywhere() {
        assert_eq!((EXIT, REGISTER), (40, 16));
        // Instructions, exception returns, registers: the host's way back to EL0 is no exit.
        let lines = "WINDOW 1 1 1 el2 100 2 7 0 0\nWINDOW 1 1 1 host.el1 50 3 1 9 9\nWINDOW 1 1 1 vm1.el1 4 0 0 0 0\n";
        let split = plugin_lines(lines, false, |_| false)
            .unwrap()
            .remove(&1)
            .unwrap();
        assert_eq!(of_split(&split), 154 + 2 * 40 + 8 * 16);
    }
}
