//! What a benchmark's guest says on its console (`bench/guest/init`).

/// A guest's verdict.
#[derive(PartialEq, Eq, Debug)]
pub(super) struct Done {
    pub(super) operations: u64,
    pub(super) unit: String,
    /// Ticks of its clock between the marks.
    pub(super) ticks: u64,
    /// What the workload's own program says.
    pub(super) says: Vec<String>,
}

/// What became of one workload in all guests. The error says why there are no figures.
pub(super) fn read(console: &str, workload: &str, vms: u32) -> Result<Done, String> {
    let mut all: Vec<Done> = Vec::new();
    let mut says = Vec::new();
    // A guest's line may follow the name that its console is shown under, or cut another line off.
    let lines = (console.lines()).filter_map(|line| Some(line.rsplit_once("BENCH ")?.1.trim()));
    for line in lines {
        let of = |kind: &str| {
            line.strip_prefix(kind)?
                .strip_prefix(workload)?
                .strip_prefix(' ')
        };
        if let Some(why) = of("FAIL ") {
            return Err(why.to_owned());
        } else if let Some(words) = of("says ") {
            says.push(words.to_owned());
        } else if let Some(words) = of("done ") {
            let done = done(words);
            all.push(done.ok_or_else(|| format!("the guest's line is not understood: {line}"))?);
        }
    }
    if all.len() != vms as usize {
        return Err(match console.lines().rev().find(|l| l.contains("panic")) {
            Some(line) => line.trim().to_owned(),
            None => format!("{} of {vms} guests finished", all.len()),
        });
    }
    let mut sum = all.pop().ok_or("no guest finished")?;
    for other in all {
        sum.operations += other.operations;
        sum.ticks = sum.ticks.max(other.ticks);
    }
    Ok(Done { says, ..sum })
}

/// `operations=N unit=UNIT ticks=T status=0`
fn done(text: &str) -> Option<Done> {
    let value = |key: &str| {
        let mut words = text.split_whitespace();
        words.find_map(|word| word.strip_prefix(key)?.strip_prefix('='))
    };
    let number = |key| value(key)?.parse().ok();
    let operations = number("operations")?;
    (value("status")? == "0" && operations > 0).then_some(Done {
        operations,
        unit: value("unit")?.to_owned(),
        ticks: number("ticks")?,
        says: Vec::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONSOLE: &str = "[host] x\r\nBENCH guest cpus=1 megabytes=480 kernel=6.12\r\n\
        BENCH says hackbench Time: 0.816\r\n\
        BENCH done hackbench operations=120000 unit=messages ticks=812345678 status=0\r\n";

    #[test]
    fn a_guests_verdict_is_read() {
        let done = read(CONSOLE, "hackbench", 1).unwrap();
        assert_eq!((done.operations, done.ticks), (120_000, 812_345_678));
        assert_eq!(
            (done.unit.as_str(), &done.says[..]),
            ("messages", &["Time: 0.816".to_owned()][..])
        );
        let two = read(&[CONSOLE, CONSOLE].concat(), "hackbench", 2).unwrap();
        assert_eq!((two.operations, two.ticks), (240_000, 812_345_678));
        let cut = CONSOLE.replace("BENCH done", "BENCH says hackbenBENCH done");
        assert_eq!(read(&cut, "hackbench", 1).unwrap().operations, 120_000);
    }

    #[test]
    fn whoever_did_not_finish_gives_no_figure() {
        assert_eq!(
            read("", "hackbench", 1).unwrap_err(),
            "0 of 1 guests finished"
        );
        assert_eq!(
            read(CONSOLE, "hackbench", 2).unwrap_err(),
            "1 of 2 guests finished"
        );
        let failed = format!("BENCH FAIL redis preparing failed: no port\r\n{CONSOLE}");
        let why = read(&failed, "redis", 1).unwrap_err();
        assert_eq!(why, "preparing failed: no port");
        // The others went on.
        assert!(read(&failed, "hackbench", 1).is_ok());
        let panic = "Kernel panic - not syncing: no init\n";
        assert_eq!(read(panic, "hackbench", 1).unwrap_err(), panic.trim());
    }

    #[test]
    fn broken_lines_are_errors_and_no_figures() {
        for (from, to) in [
            ("operations=120000", "operations=0"),
            ("operations=120000", "operations=x"),
            ("ticks=812345678", ""),
            ("status=0", "status=1"),
        ] {
            let why = read(&CONSOLE.replace(from, to), "hackbench", 1).unwrap_err();
            assert!(
                why.starts_with("the guest's line is not understood: "),
                "{why}"
            );
        }
    }
}
