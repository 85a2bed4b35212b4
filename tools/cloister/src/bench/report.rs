//! The report's part about micro-operations.

use std::fmt::Write;

use super::contender::Contender;
use super::operation::{Cost, OPERATIONS, Operation};
use super::results::{ContenderResults, OperationResults, Results};
use super::sample::{Counts, GUEST, Split};

/// The contexts, with the report's names for them.
const CONTEXTS: [(&str, &str); 5] = [
    ("el3", "EL3"),
    ("el2", "EL2"),
    ("host.el1", "host EL1"),
    ("host.el0", "host EL0"),
    (GUEST, "guest"),
];

/// The report's text.
pub(super) fn markdown(results: &Results) -> String {
    let mut text = String::new();
    introduction(&mut text, results);
    costs(&mut text, results);
    latencies(&mut text, results);
    repeatability(&mut text, results);
    not_run(&mut text, results);
    if results.split {
        splits(&mut text, results);
    }
    commands(&mut text, results);
    text
}

fn introduction(text: &mut String, results: &Results) {
    let v = &results.versions;
    let unit = if results.split {
        "split by exception level by a plugin"
    } else {
        "read from the guest's clock; **the split by exception level was not run: no plugin**"
    };
    let _ = write!(
        text,
        "## Micro-operations\n\nExecuted instructions for one operation, {unit}, on one emulated machine for all: QEMU `virt`, {}, GICv3,\n\
         2 GB, `-icount shift=0,sleep=off`. The guest is the same image everywhere, with 512 MB and 2 vCPUs.\n\n\
         | | |\n|---|---|\n\
         | Cloister | {} |\n| built with | {} |\n| QEMU | {} |\n\
         | KVM host's kernel | {} |\n| KVM host's QEMU | {} |\n",
        results.cpu, v.cloister, v.rust, v.qemu, v.host_kernel, v.host_qemu
    );
    for contender in &results.contenders {
        if let Some(host) = &contender.host {
            let _ = writeln!(text, "| {} | {host} |", contender.name.title());
        }
    }
}

/// The columns' heads of a table with a column for each contender.
fn head(text: &mut String, results: &Results, last: &str) {
    let titles: Vec<&str> = results.contenders.iter().map(|c| c.name.title()).collect();
    let _ = writeln!(text, "| operation | {} |{last}", titles.join(" | "));
    let columns = titles.len() + usize::from(!last.is_empty());
    let _ = writeln!(text, "|---|{}", "--:|".repeat(columns));
}

fn costs(text: &mut String, results: &Results) {
    text.push_str("\n### Instructions for an operation\n\n");
    head(text, results, " KVM / Cloister |");
    for operation in OPERATIONS {
        let mark = match operation {
            Operation {
                cost: Cost::Hypervisor,
                ..
            } => " (1)",
            Operation { fault: true, .. } => " (2)",
            _ => "",
        };
        let _ = write!(text, "| {}{mark} |", operation.title);
        for contender in &results.contenders {
            let _ = write!(text, " {} |", figure(contender.operation(operation.name)));
        }
        let _ = writeln!(text, " {} |", ratio(results, operation));
    }
    text.push_str(
        "\nEverything from one guest instruction to the next is counted, the guest's own part included, on all CPUs of the\n\
         machine. KVM / Cloister: the better of KVM's two modes over Cloister's protected VM; 8.0 means that KVM takes eight\n\
         times as many. – means that there is no such operation, or no figure: see below.\n\
         (1) Without the guest's own instructions: the sender fills time with waiting.\n\
         (2) With Cloister there is no fault: all of a VM's memory is mapped when it starts, and what that costs is not in\n\
         this table. KVM's host clears the page before the guest has it.\n",
    );
}

fn figure(operation: Option<&OperationResults>) -> String {
    match operation.and_then(|o| o.cost) {
        Some(cost) => thousands(cost),
        None => "–".to_owned(),
    }
}

/// 12345.6 → "12,346"
pub(super) fn thousands(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut grouped = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

fn ratio(results: &Results, operation: &Operation) -> String {
    let cost = |wanted: Contender| {
        let contender = results.contenders.iter().find(|c| c.name == wanted)?;
        contender.operation(operation.name)?.cost
    };
    let kvm = [cost(Contender::KvmNvhe), cost(Contender::KvmVhe)];
    let best = kvm.into_iter().flatten().reduce(f64::min);
    if operation.fault {
        return "–".to_owned();
    }
    match (best, cost(Contender::Protected)) {
        (Some(kvm), Some(own)) if own > 0.0 => format!("{:.1}", kvm / own),
        _ => "–".to_owned(),
    }
}

fn latencies(text: &mut String, results: &Results) {
    text.push_str(
        "\n### Until the other end is reached\n\n\
         Ticks of the guest's clock (1 GHz, instructions of whichever CPU runs): from the timer's deadline until the handler\n\
         is over; from sending the SGI until its handler has run.\n\n",
    );
    head(text, results, "");
    for operation in OPERATIONS.iter().filter(|o| o.latency) {
        let _ = write!(text, "| {} |", operation.title);
        for contender in &results.contenders {
            let ticks = contender
                .operation(operation.name)
                .and_then(OperationResults::ticks);
            let _ = write!(
                text,
                " {} |",
                ticks.map_or_else(|| "–".to_owned(), thousands)
            );
        }
        text.push('\n');
    }
}

fn repeatability(text: &mut String, results: &Results) {
    text.push_str("\n### Repeatability\n\n");
    let runs = |c: &ContenderResults| c.operations.iter().map(|o| o.runs.len()).max();
    let runs = results
        .contenders
        .iter()
        .filter_map(runs)
        .max()
        .unwrap_or(0);
    let _ = match results.widest() {
        Some(_) if runs < 2 => writeln!(text, "One run only."),
        Some((_, _, 0.0)) => writeln!(
            text,
            "{runs} runs of everything, which agree in every figure to the instruction."
        ),
        Some((contender, operation, spread)) => writeln!(
            text,
            "{runs} runs of everything. Furthest apart: {} % ({}, {operation}).",
            percent(spread),
            contender.title()
        ),
        None => writeln!(text, "Nothing was measured."),
    };
}

/// 0.01 → "1.00"
pub(super) fn percent(part: f64) -> String {
    format!("{:.2}", part * 100.0)
}

fn not_run(text: &mut String, results: &Results) {
    let mut lines: Vec<String> = Vec::new();
    for contender in &results.contenders {
        let mut reasons: Vec<(&str, Vec<&str>)> = Vec::new();
        for operation in &contender.operations {
            let Some(why) = operation.not_run.as_deref() else {
                continue;
            };
            match reasons.iter_mut().find(|(known, _)| *known == why) {
                Some((_, names)) => names.push(&operation.name),
                None => reasons.push((why, vec![&operation.name])),
            }
        }
        for (why, names) in reasons {
            lines.push(format!(
                "- {}: {}: {why}",
                contender.name.title(),
                names.join(", ")
            ));
        }
    }
    if !lines.is_empty() {
        let _ = write!(text, "\n### Not run\n\n{}\n", lines.join("\n"));
    }
}

fn splits(text: &mut String, results: &Results) {
    text.push_str(
        "\n### Where the instructions go\n\n\
         For one operation, in the window with the fewest. Exits: exception returns from EL2 to EL1 or EL0, with nVHE KVM also\n\
         those to its own host. The last three columns leave out the guest's.\n",
    );
    for contender in &results.contenders {
        let rows: Vec<(&str, u64, &Split)> = (contender.operations.iter())
            .filter_map(|o| {
                let counted = o.runs.iter().filter(|run| run.split.is_some());
                let total = |split: &Split| split.values().map(|c| c.instructions).sum::<u64>();
                let run = counted.min_by_key(|run| run.split.as_ref().map(total))?;
                Some((o.name.as_str(), run.rounds, run.split.as_ref()?))
            })
            .collect();
        let used: Vec<_> = (CONTEXTS.iter())
            .filter(|(key, _)| rows.iter().any(|(_, _, split)| split.contains_key(*key)))
            .collect();
        if rows.is_empty() {
            continue;
        }
        let names: Vec<&str> = used.iter().map(|(_, title)| *title).collect();
        let _ = write!(
            text,
            "\n#### {}\n\n| operation | {} | exits | system registers | TLBI | barriers |\n|---|{}\n",
            contender.name.title(),
            names.join(" | "),
            "--:|".repeat(used.len() + 4)
        );
        for (name, rounds, split) in rows {
            let per_round = |count: u64| count as f64 / rounds as f64;
            let _ = write!(text, "| {name} |");
            for (key, _) in &used {
                let count = split.get(*key).map_or(0, |c| c.instructions);
                let _ = write!(text, " {} |", thousands(per_round(count)));
            }
            let exits = split.get("el2").map_or(0, |c| c.exception_returns);
            let sum = |of: fn(&Counts) -> u64| {
                let others = split.iter().filter(|(key, _)| *key != GUEST);
                per_round(others.map(|(_, counts)| of(counts)).sum())
            };
            let _ = writeln!(
                text,
                " {:.1} | {:.0} | {:.1} | {:.1} |",
                per_round(exits),
                sum(|c| c.system_registers),
                sum(|c| c.tlb_invalidations),
                sum(|c| c.barriers)
            );
        }
    }
}

fn commands(text: &mut String, results: &Results) {
    text.push_str("\n### Commands\n\nFrom the root of the source tree, after `make bench-micro` has made the files.\n");
    for contender in &results.contenders {
        for command in &contender.commands {
            let _ = write!(text, "\n{}:\n\n    {command}\n", contender.name.title());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::results::Versions;

    fn operation(name: &str, cost: Option<f64>) -> OperationResults {
        OperationResults {
            name: name.to_owned(),
            cost,
            spread: cost.map(|_| 0.004),
            not_run: cost.is_none().then(|| "QEMU is missing".to_owned()),
            runs: Vec::new(),
        }
    }

    fn results() -> Results {
        let contender = |name, hypercall| ContenderResults {
            operations: vec![
                operation("null", Some(3.0)),
                operation("hypercall", hypercall),
            ],
            ..ContenderResults::new(name)
        };
        Results {
            versions: Versions::default(),
            cpu: "neoverse-n1".to_owned(),
            split: false,
            contenders: vec![
                contender(Contender::Protected, Some(161.0)),
                contender(Contender::KvmNvhe, Some(1700.4)),
                contender(Contender::KvmVhe, None),
            ],
        }
    }

    #[test]
    fn the_ratio_is_that_of_the_better_kvm_that_ran() {
        let text = markdown(&results());
        assert!(
            text.contains("| hypercall, unknown number | 161 | 1,700 | – | 10.6 |"),
            "{text}"
        );
    }

    #[test]
    fn what_did_not_run_is_named_with_its_reason() {
        let text = markdown(&results());
        assert!(
            text.contains("- KVM VHE: hypercall: QEMU is missing"),
            "{text}"
        );
        assert!(text.contains("not run: no plugin"));
    }

    #[test]
    fn digits_are_grouped() {
        let all = [0.4, 999.6, 12_345.6, 1_234_567.0].map(thousands);
        assert_eq!(all, ["0", "1,000", "12,346", "1,234,567"]);
    }
}
