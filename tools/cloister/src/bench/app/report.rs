//! The applications' part of the report, and their plot.

use std::fmt::Write;

use super::results::{AppResults, ContenderRuns, Run};
use super::workload;
use crate::bench::contender::Contender;
use crate::bench::plot::Bars;
use crate::bench::report::{percent, thousands};

const INTRODUCTION: &str = "\
The same kernel, initramfs and command line in every guest, with 512 MB and one vCPU where nothing else is said; *native* is\n\
that kernel on the machine itself, held to as many CPUs and as much memory. Counted is what the whole machine executes between two marks that the guest sets, the\n\
guest's own part included. What each workload does, and how it is scaled down from what papers run so that a run takes\n\
a minute or so, stands in [bench/guest/workloads](guest/workloads). Where no second VM is mentioned, **servers and clients are in\n\
one guest**, over its loopback interface: nothing goes through a virtual network card.\n";

const PAIRS: &str = "\n### The client in a second VM\n\n\
Server and client are a VM each, of 512 MB, and share as many CPUs as each has vCPUs. Cloister: virtio-net, and the hostvisor's\n\
switch. KVM: virtio-net on virtio-mmio served by vhost-net, tap devices and a bridge. The guests' kernel is another one than in the\n\
other tables, because a protected VM has to share memory with its network card: Debian's source with\n\
[guest/pkvm.config](../guest/pkvm.config), which copies every frame into and out of memory that it shares, when it is protected.\n\n";

const SEVERAL: &str = "\n### More vCPUs, more VMs\n\n\
As many CPUs as a VM has vCPUs, which all VMs share. QEMU runs one CPU after the other in one thread, so a processor that waits\n\
for another in a loop executes more than it would beside it: compare contenders with each other. Operations of all VMs for\n\
10⁹ instructions of the machine, from the first guest's mark to the last one's:\n\n";

/// The part's text.
pub(in crate::bench) fn markdown(all: &[AppResults]) -> String {
    let mut text = format!("## Applications\n\n{INTRODUCTION}");
    if all.is_empty() {
        text.push_str("\nNothing was measured.\n");
        return text;
    }
    let (pairs, alone): (Vec<_>, Vec<_>) =
        (all.iter()).partition(|r| workload::find(&r.workload).is_some_and(|w| w.pair));
    let (single, several): (Vec<_>, Vec<_>) =
        (alone.iter()).partition(|r| r.setting.vms == 1 && r.setting.vcpus == 1);
    text.push_str("\n### Operations for 10⁹ instructions of the machine\n\n");
    throughputs(&mut text, &single);
    text.push_str(
        "\nMore is better. Cloister/KVM: Cloister's open VM over the better of KVM's two modes; 1.02 means that Cloister does\n\
         2 % more with the same number of instructions. Protected/open: of Cloister's two VMs.\n\
         \n### Operations in a second of the emulated machine\n\nOne instruction a nanosecond, and time in which nobody has work passes, too.\n\n",
    );
    table(&mut text, &single, &[], |run| {
        rate(run.operations as f64 * 1e9 / run.ticks.max(1) as f64)
    });
    text.push_str(
        "\n### The hypervisor's part\n\nInstructions at EL2 and of the host, for 1000 operations. In the guest's own part \
         the contenders differ by chance:\nwhen its timer fires decides who runs next.\n\n",
    );
    hypervisors(&mut text, &single);
    for (part, heading) in [(&pairs, PAIRS), (&several, SEVERAL)] {
        if !part.is_empty() {
            text.push_str(heading);
            throughputs(&mut text, part);
            text.push_str("\nInstructions at EL2 and of the host, for 1000 operations.\n\n");
            hypervisors(&mut text, part);
        }
    }
    seeds(&mut text, all);
    measured(&mut text, all);
    repeatability(&mut text, all);
    not_run(&mut text, all);
    text
}

/// Operations for as many instructions, and what that is to others.
fn throughputs(text: &mut String, all: &[&AppResults]) {
    let ratios: [Column; 2] = [
        ("Cloister/KVM", |results| ratio_to_kvm(results).map(ratio)),
        ("protected/open", |results| {
            ratio_to_open(results).map(ratio)
        }),
    ];
    table(text, all, &ratios, |run| rate(run.throughput()));
}

/// What is not the guest's.
fn hypervisors(text: &mut String, all: &[&AppResults]) {
    table(text, all, &[], |run| per_thousand(run, run.hypervisor()));
    text.push_str(
        "\nExits for 1000 operations; with nVHE KVM and pKVM also those of the host to EL2.\n\n",
    );
    table(text, all, &[], |run| per_thousand(run, run.exits()));
}

/// How far chance carries, where it was asked.
fn seeds(text: &mut String, all: &[AppResults]) {
    let several: Vec<_> = all.iter().filter(|r| r.setting.seeds > 1).collect();
    if several.is_empty() {
        return;
    }
    text.push_str(
        "\n### Chance\n\nMeasured once with each of several of QEMU's seeds, from which guests take what is random. \
         The tables above have the run in the middle;\nhere are the least and the most operations for 10⁹ instructions.\n\n",
    );
    let seeds: [Column; 1] = [("seeds", |results| Some(results.setting.seeds.to_string()))];
    grid(text, &several, &seeds, &[], |runs| {
        let runs = runs.sorted();
        let (most, least) = (runs.first()?.throughput(), runs.last()?.throughput());
        Some(format!("{} – {}", rate(least), rate(most)))
    });
}

/// What the figures are of.
fn measured(text: &mut String, all: &[AppResults]) {
    text.push_str(
        "\n### What was measured\n\nCloister: the version of the tree when its runs were made.\n\n\
         | workload | Cloister | QEMU | kernel of guests and KVM host | KVM host's QEMU | programs |\n|---|---|---|---|---|---|\n",
    );
    for results in all.iter().filter(|r| r.is_measured()) {
        let own = (results.contenders.iter()).find_map(|c| c.cloister.as_ref());
        let v = &results.versions;
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {} | {} |",
            title(results),
            own.unwrap_or(&v.cloister),
            v.qemu,
            v.host_kernel,
            v.host_qemu,
            results.packages.join(", ")
        );
    }
}

/// Operations for a measure; long ones, of which there are few, with decimals.
fn rate(operations: f64) -> String {
    match operations {
        few if few < 10.0 => format!("{few:.3}"),
        many => thousands(many),
    }
}

fn ratio(ratio: f64) -> String {
    format!("{ratio:.3}")
}

fn per_thousand(run: &Run, count: u64) -> String {
    thousands(count as f64 * 1000.0 / run.operations as f64)
}

type Column = (&'static str, fn(&AppResults) -> Option<String>);

/// A row for each workload, a column for each contender's run in the middle and for each ratio.
fn table(
    text: &mut String,
    all: &[&AppResults],
    ratios: &[Column],
    figure: impl Fn(&Run) -> String,
) {
    grid(text, all, &[], ratios, |runs| runs.median().map(&figure));
}

/// A row for each workload, a column for each contender, and others before and after those.
fn grid(
    text: &mut String,
    all: &[&AppResults],
    before: &[Column],
    after: &[Column],
    figure: impl Fn(&ContenderRuns) -> Option<String>,
) {
    let columns = before.iter().map(|(title, _)| *title);
    let columns = columns.chain(Contender::ALL.map(Contender::title));
    let columns: Vec<&str> = columns
        .chain(after.iter().map(|(title, _)| *title))
        .collect();
    let (titles, rule) = (columns.join(" | "), "--:|".repeat(columns.len()));
    let _ = writeln!(text, "| workload | {titles} |\n|---|{rule}");
    for results in all {
        let other = |(_, cell): &Column| cell(results);
        let own = |contender| results.contender(contender).and_then(&figure);
        let cells = before.iter().map(other).chain(Contender::ALL.map(own));
        let _ = write!(text, "| {} |", title(results));
        for cell in cells.chain(after.iter().map(other)) {
            let _ = write!(text, " {} |", cell.as_deref().unwrap_or("–"));
        }
        text.push('\n');
    }
}

/// A workload's name, with VMs and vCPUs if there is more than one, and memory that is not as usual.
fn title(results: &AppResults) -> String {
    let setting = &results.setting;
    let workload = workload::find(&results.workload);
    let mut title = workload
        .map_or(results.workload.as_str(), |w| w.title)
        .to_owned();
    if setting.vcpus > 1 {
        let _ = write!(title, ", {} vCPUs", setting.vcpus);
    }
    if workload.is_some_and(|w| w.pair) {
        title += ", client in a second VM";
    } else if setting.vms > 1 {
        let _ = write!(title, ", {} VMs", setting.vms);
    }
    if setting.megabytes != 512 {
        let _ = write!(title, ", {} MB", setting.megabytes);
    }
    title
}

fn throughput(results: &AppResults, contender: Contender) -> Option<f64> {
    Some(results.contender(contender)?.median()?.throughput())
}

/// Cloister's open VM over the better of KVM's modes.
pub(in crate::bench) fn ratio_to_kvm(results: &AppResults) -> Option<f64> {
    let kvm = [Contender::KvmNvhe, Contender::KvmVhe];
    let best = kvm.iter().filter_map(|c| throughput(results, *c));
    Some(throughput(results, Contender::Open)? / best.reduce(f64::max)?)
}

fn ratio_to_open(results: &AppResults) -> Option<f64> {
    Some(throughput(results, Contender::Protected)? / throughput(results, Contender::Open)?)
}

fn repeatability(text: &mut String, all: &[AppResults]) {
    let all: Vec<_> = all.iter().filter(|r| r.setting.seeds == 1).collect();
    if all.is_empty() {
        return;
    }
    text.push_str("\n### Repeatability of the applications\n\n");
    let runs = (all.iter().flat_map(|r| &r.contenders))
        .map(|c| c.runs.len())
        .max();
    let widest = all.iter().filter_map(|r| {
        let (contender, spread) = r.widest()?;
        Some((title(r), contender, spread))
    });
    let _ = match widest.reduce(|a, b| if b.2 > a.2 { b } else { a }) {
        None => writeln!(text, "One run only."),
        Some((_, _, 0.0)) => writeln!(
            text,
            "{} runs of everything, which agree in every count to the instruction.",
            runs.unwrap_or(0)
        ),
        Some((name, contender, spread)) => writeln!(
            text,
            "{} runs of everything. Furthest apart: {} % ({name}, {}).",
            runs.unwrap_or(0),
            percent(spread),
            contender.title()
        ),
    };
    let once = all
        .iter()
        .filter(|r| r.contenders.iter().map(|c| c.runs.len()).max() == Some(1));
    let once: Vec<String> = once.map(|r| title(r)).collect();
    if !once.is_empty() && runs > Some(1) {
        let _ = writeln!(text, "\nBut run only once: {}.", once.join("; "));
    }
}

fn not_run(text: &mut String, all: &[AppResults]) {
    let mut lines = String::new();
    for results in all {
        for contender in &results.contenders {
            if let Some(why) = &contender.not_run {
                let (name, who) = (title(results), contender.name.title());
                let _ = writeln!(lines, "- {name}: {who}: {why}");
            }
        }
    }
    if !lines.is_empty() {
        let _ = write!(text, "\n### Applications not run\n\n{lines}");
    }
}

/// The commands of all runs, for the end of the report.
pub(in crate::bench) fn commands(all: &[AppResults]) -> String {
    let mut text = String::new();
    for results in all {
        for contender in &results.contenders {
            if let Some(command) = &contender.command {
                let (name, who) = (title(results), contender.name.title());
                let _ = write!(text, "\n{name}, {who}:\n\n    {command}\n");
            }
        }
    }
    text
}

/// Throughput relative to that of the machine without hypervisor, for workloads in one VM.
pub(in crate::bench) fn plot(all: &[AppResults]) -> String {
    let relative = |results: &AppResults| {
        let native = throughput(results, Contender::Native);
        let of = |c: &Contender| Some(throughput(results, *c)? / native?);
        Contender::ALL[1..].iter().map(of).collect()
    };
    Bars {
        title: "Operations for as many instructions, in one VM; the machine without hypervisor is 1",
        axis: "relative to native (more is better)",
        series: Contender::ALL[1..].iter().map(|c| c.title()).collect(),
        groups: (all.iter())
            .filter(|r| r.setting.vms == 1 && r.setting.vcpus == 1 && r.is_measured())
            .map(|r| (r.workload.as_str(), relative(r)))
            .collect(),
    }
    .svg()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::app::results::Setting;
    use crate::bench::results::Versions;

    fn results() -> AppResults {
        let contender = |name, guest, el2| ContenderRuns {
            name,
            host: None,
            cloister: None,
            command: Some("qemu -x".to_owned()),
            not_run: None,
            runs: vec![super::super::results::tests::run(guest, el2); 2],
        };
        let missing = ContenderRuns {
            not_run: Some("build/bench/host.cpio is missing".to_owned()),
            runs: Vec::new(),
            ..contender(Contender::KvmVhe, 1, 1)
        };
        AppResults {
            workload: "hackbench".to_owned(),
            setting: Setting {
                vms: 2,
                vcpus: 1,
                cpu: "max".to_owned(),
                megabytes: 256,
                seeds: 1,
            },
            versions: Versions::default(),
            packages: vec!["rt-tests 2.6".to_owned()],
            contenders: vec![
                contender(Contender::Open, 900_000, 100_000),
                contender(Contender::KvmNvhe, 900_000, 350_000),
                missing,
            ],
        }
    }

    #[test]
    fn few_operations_have_decimals() {
        assert_eq!([0.118_44, 9.5, 10.0].map(rate), ["0.118", "9.500", "10"]);
    }

    #[test]
    fn figures_ratios_and_what_is_missing_stand_in_the_tables() {
        let text = markdown(&[results()]);
        let row = "| hackbench, 5 groups, 2 VMs, 256 MB | – | 1,000,000 | – | 800,000 | – | – | 1.250 | – |";
        assert!(text.contains(row), "{text}");
        assert!(
            text.contains("| – | 100,000 | – | 350,000 | – | – |"),
            "{text}"
        );
        let missing =
            "- hackbench, 5 groups, 2 VMs, 256 MB: KVM VHE: build/bench/host.cpio is missing\n";
        assert!(text.contains(missing), "{text}");
        assert!(text.contains("2 runs of everything, which agree in every count"));
        assert!(!text.contains("only once"));
        let mut once = results();
        once.setting.vms = 4;
        once.contenders.iter_mut().for_each(|c| c.runs.truncate(1));
        let text = markdown(&[results(), once]);
        let named = "But run only once: hackbench, 5 groups, 4 VMs, 256 MB.\n";
        assert!(text.contains(named), "{text}");
        assert!(commands(&[results()]).contains("2 VMs, 256 MB, KVM nVHE:\n\n    qemu -x\n"));
        assert!(text.contains(SEVERAL) && !text.contains(PAIRS));
        let mut pair = results();
        pair.workload = "redis-net".to_owned();
        let text = markdown(&[pair]);
        assert!(text.contains(PAIRS) && !text.contains(SEVERAL), "{text}");
    }

    #[test]
    fn of_several_seeds_the_least_and_the_most_are_shown() {
        assert!(!markdown(&[results()]).contains("### Chance"));
        let mut seeds = results();
        seeds.setting.seeds = 2;
        let open = &mut seeds.contenders[0].runs;
        open[1] = super::super::results::tests::run(1_900_000, 100_000);
        let text = markdown(&[seeds]);
        let row = "| hackbench, 5 groups, 2 VMs, 256 MB | 2 | – | 500,000 – 1,000,000 | – | 800,000 – 800,000 | – | – |";
        assert!(text.contains(row), "{text}");
        assert!(!text.contains("### Repeatability"), "{text}");
    }

    #[test]
    fn nothing_measured_is_said_and_no_table() {
        assert!(markdown(&[]).contains("Nothing was measured."));
    }
}
