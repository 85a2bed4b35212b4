//! `bench/REPORT.md` and its plots, made of whatever results are there.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use super::contender::Contender;
use super::plot::Bars;
use super::results::Results;
use super::{app, projection, report};
use crate::error::{Error, Result};
use crate::progress;

const HEAD: &str = "\
# Cloister and KVM, measured\n\n\
Written by `make bench` from [bench/results](results); how it measures: [docs/benchmarks.md](../docs/benchmarks.md).\n\
All of it on one emulated machine, counted in executed instructions: what that leaves out stands at the end.\n";

const LEFT_OUT: &str = "\
Instructions are not time. A processor also pays for taking and leaving an exception, for filling TLBs (walks of two\n\
stages), for barriers that wait, for system registers that are slow to access, and for caches that the other side\n\
filled. So exits, system-register accesses, TLB invalidations and barriers stand beside the instructions.\n\
What costs many instructions in straight lines looks worse here than on a processor; what exits often, better.\n\
QEMU's wall-clock times are not shown: they measure its own TLB flushes.\n";

/// Writes the report of the results in `folder`.
pub(super) fn write(folder: &Path) -> Result<()> {
    let micro = micro(folder)?;
    let apps = app::read_all(folder)?;
    let mut text = HEAD.to_owned();
    if !apps.is_empty() {
        super::write(
            &folder.join("plots/applications.svg"),
            app::report::plot(&apps).as_bytes(),
        )?;
        text.push_str("\n![Applications relative to native](plots/applications.svg)\n");
    }
    if let Some(micro) = &micro {
        super::write(&folder.join("plots/micro.svg"), plot(micro).as_bytes())?;
        text.push_str("\n![Instructions for a micro-operation](plots/micro.svg)\n");
    }
    let _ = write!(text, "\n{}", app::report::markdown(&apps));
    if let Some(starts) = app::start::read(folder)? {
        let _ = write!(text, "\n{}", app::start::markdown(&starts));
    }
    match &micro {
        Some(micro) => {
            let _ = write!(text, "\n{}", report::markdown(micro));
        }
        None => text.push_str("\n## Micro-operations\n\nNothing was measured.\n"),
    }
    let _ = write!(text, "\n## What the counts leave out\n\n{LEFT_OUT}");
    if let Some(micro) = micro.as_ref().filter(|micro| micro.split) {
        let _ = write!(text, "\n{}", projection::markdown(micro));
    }
    let _ = write!(
        text,
        "\n## Commands of the applications\n{}",
        app::report::commands(&apps)
    );
    let file = folder.join("REPORT.md");
    super::write(&file, text.as_bytes())?;
    progress(format_args!("bench: {} written", file.display()));
    Ok(())
}

/// The results of `cloister bench micro`, if there are any.
pub(super) fn micro(folder: &Path) -> Result<Option<Results>> {
    let file = folder.join("results/micro.json");
    if !file.exists() {
        return Ok(None);
    }
    let text = fs::read(&file).map_err(|e| Error::file(&file, &e))?;
    let results = serde_json::from_slice(&text);
    results
        .map(Some)
        .map_err(|e| Error::config(format_args!("{}: {e}", file.display())))
}

/// Some operations of every kind.
fn plot(results: &Results) -> String {
    let shown = [
        "hypercall",
        "id-register",
        "mmio-read",
        "gicd-read",
        "ipi-self",
        "timer",
        "ipi-running",
    ];
    let contenders = || Contender::ALL[1..].iter();
    let cost = |contender: &Contender, operation: &str| {
        let found = results.contenders.iter().find(|c| c.name == *contender)?;
        found.operation(operation)?.cost
    };
    Bars {
        title: "Instructions for a micro-operation, from one guest instruction to the next",
        axis: "instructions (less is better)",
        series: contenders().map(|c| c.title()).collect(),
        groups: (shown.iter())
            .map(|name| (*name, contenders().map(|c| cost(c, name)).collect()))
            .collect(),
    }
    .svg()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_of_no_results_says_that_there_are_none() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("results")).unwrap();
        write(folder.path()).unwrap();
        let text = fs::read_to_string(folder.path().join("REPORT.md")).unwrap();
        assert_eq!(text.matches("Nothing was measured.").count(), 2);
        fs::write(folder.path().join("results/micro.json"), "{}").unwrap();
        let error = write(folder.path()).unwrap_err().to_string();
        assert!(error.contains("micro.json: missing field"), "{error}");
    }

    #[test]
    fn results_checked_in_can_be_read() {
        let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../bench"));
        let results = micro(folder).unwrap().unwrap();
        assert_eq!(results.contenders.len(), Contender::ALL.len());
        app::read_all(folder).unwrap();
        app::start::read(folder).unwrap();
    }
}
