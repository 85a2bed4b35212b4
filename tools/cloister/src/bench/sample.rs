//! What one run says about an operation, read from the guest's console and the plugin's file.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::operation::Cost;

/// Executed instructions of some kinds.
#[derive(Serialize, Deserialize, Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(super) struct Counts {
    /// All of them.
    pub(super) instructions: u64,
    /// ERETs: at EL2, exits that were handled.
    pub(super) exception_returns: u64,
    /// MRS and MSR.
    pub(super) system_registers: u64,
    /// TLBIs.
    pub(super) tlb_invalidations: u64,
    /// DSBs and ISBs.
    pub(super) barriers: u64,
}

impl Counts {
    fn parse(words: &[&str]) -> Option<Self> {
        let number = |i: usize| words.get(i)?.parse().ok();
        Some(Self {
            instructions: number(0)?,
            exception_returns: number(1)?,
            system_registers: number(2)?,
            tlb_invalidations: number(3)?,
            barriers: number(4)?,
        })
    }

    fn add(&mut self, other: Self) {
        self.instructions += other.instructions;
        self.exception_returns += other.exception_returns;
        self.system_registers += other.system_registers;
        self.tlb_invalidations += other.tlb_invalidations;
        self.barriers += other.barriers;
    }
}

/// Counts by context: `el2`, `host.el1`, `host.el0`, `guest` and, in firmware, `el3`.
pub(super) type Split = BTreeMap<String, Counts>;

/// The name under which the contexts of guests are added up.
pub(super) const GUEST: &str = "guest";

/// An operation as one run measured it.
#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
pub(super) struct Sample {
    /// Rounds in a window.
    pub(super) rounds: u64,
    /// Windows.
    pub(super) windows: u64,
    /// Counter ticks of the window that had least.
    pub(super) least_ticks: u64,
    /// Counter ticks of the one that had most.
    pub(super) most_ticks: u64,
    /// Where the window that counts spent them (see [`plugin_lines`]), if the plugin was there.
    pub(super) split: Option<Split>,
}

impl Sample {
    /// Ticks for one operation.
    pub(super) fn ticks(&self) -> f64 {
        self.least_ticks as f64 / self.rounds as f64
    }

    /// Instructions for one operation, if the plugin counted them.
    pub(super) fn instructions(&self, cost: Cost) -> Option<f64> {
        let split = self.split.as_ref()?;
        Some(counted(split, cost) as f64 / self.rounds as f64)
    }
}

/// What became of an operation in one run.
#[derive(Clone, PartialEq, Debug)]
pub(super) enum Figure {
    /// It was measured.
    Measured(Sample),
    /// The guest says that it cannot be done here, and why.
    Absent(String),
}

/// Reads the guest's lines: operation by number, with its name.
pub(super) fn guest_lines(console: &str) -> Result<BTreeMap<u64, (String, Figure)>, String> {
    let mut figures = BTreeMap::new();
    for line in console.lines() {
        // A guest's line may follow something of the host's.
        let Some((_, rest)) = line.split_once("MICRO ") else {
            continue;
        };
        let bad = || format!("the guest's line is not understood: {}", line.trim());
        let (id, rest) = rest.trim().split_once(' ').ok_or_else(bad)?;
        let (name, rest) = rest.split_once(' ').ok_or_else(bad)?;
        let id = id.parse().map_err(|_| bad())?;
        let figure = match rest.strip_prefix("absent: ") {
            Some(why) => Figure::Absent(why.to_owned()),
            None => Figure::Measured(measured(rest).ok_or_else(bad)?),
        };
        if figures.insert(id, (name.to_owned(), figure)).is_some() {
            return Err(format!("the guest measured {name} twice"));
        }
    }
    Ok(figures)
}

/// `rounds=R windows=W least=L most=M`
fn measured(text: &str) -> Option<Sample> {
    let value = |key: &str| -> Option<u64> {
        let mut words = text.split_whitespace();
        words.find_map(|word| word.strip_prefix(key)?.strip_prefix('=')?.parse().ok())
    };
    let sample = Sample {
        rounds: value("rounds")?,
        windows: value("windows")?,
        least_ticks: value("least")?,
        most_ticks: value("most")?,
        split: None,
    };
    (sample.rounds > 0).then_some(sample)
}

/// Reads the plugin's file: for each operation the window with the fewest instructions; of those that are `typical` the
/// one with the median of instructions besides the guest's. `alone`: there is no hypervisor, the guest is what the plugin
/// takes for a host.
pub(super) fn plugin_lines(
    text: &str,
    alone: bool,
    typical: impl Fn(u64) -> bool,
) -> Result<BTreeMap<u64, Split>, String> {
    let mut windows: BTreeMap<u64, (u64, Split)> = BTreeMap::new();
    for line in text.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        let ["WINDOW", number, id, _rounds, context, counts @ ..] = &words[..] else {
            continue;
        };
        let bad = || format!("the plugin's line is not understood: {line}");
        let (number, id) = (
            number.parse().map_err(|_| bad())?,
            id.parse().map_err(|_| bad())?,
        );
        let counts = Counts::parse(counts).ok_or_else(bad)?;
        let guest = context.starts_with("vm") || alone;
        let window = windows.entry(number).or_insert((id, Split::new()));
        let name = if guest { GUEST } else { context };
        window.1.entry(name.to_owned()).or_default().add(counts);
    }
    let mut operations: BTreeMap<u64, Vec<Split>> = BTreeMap::new();
    for (id, split) in windows.into_values() {
        operations.entry(id).or_default().push(split);
    }
    let chosen = operations.into_iter().map(|(id, mut splits)| {
        let (cost, at) = match typical(id) {
            true => (Cost::Hypervisor, splits.len() / 2),
            false => (Cost::GuestToGuest, 0),
        };
        splits.sort_by_key(|split| counted(split, cost));
        (id, splits.swap_remove(at))
    });
    Ok(chosen.collect())
}

/// Instructions of a window that count.
fn counted(split: &Split, cost: Cost) -> u64 {
    let counts = split
        .iter()
        .filter(|(name, _)| cost == Cost::GuestToGuest || *name != GUEST);
    counts.map(|(_, counts)| counts.instructions).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONSOLE: &str = "[host] x\r\nMICRO 0 null rounds=10 windows=5 least=30 most=41\r\n\
        MICRO 15 share-unshare absent: the VM has no MEM_SHARE\r\nTEST micro: pass\r\n";

    #[test]
    fn figures_are_those_of_the_cheapest_window() {
        let lines = guest_lines(CONSOLE).unwrap();
        let (name, Figure::Measured(sample)) = &lines[&0] else {
            panic!("{lines:?}");
        };
        assert_eq!((name.as_str(), sample.ticks()), ("null", 3.0));
        let plugin = "WINDOW 1 0 10 el2 500 1 1 0 0\nWINDOW 1 0 10 vm1.el1 30 0 0 0 0\n\
            WINDOW 2 0 10 vm1.el1 20 0 0 0 0\nWINDOW 2 0 10 vm3.el0 10 0 0 0 0\nWINDOW 2 0 10 el2 100 7 0 0 0\n";
        let split = plugin_lines(plugin, false, |_| false)
            .unwrap()
            .remove(&0)
            .unwrap();
        assert_eq!(split["el2"].exception_returns, 7);
        assert_eq!(split[GUEST].instructions, 30);
        let sample = Sample {
            split: Some(split),
            ..sample.clone()
        };
        assert_eq!(sample.instructions(Cost::GuestToGuest), Some(13.0));
        assert_eq!(sample.instructions(Cost::Hypervisor), Some(10.0));
    }

    #[test]
    fn of_a_typical_operation_it_is_the_median_without_the_guest() {
        let window = |n, el2, guest| {
            format!("WINDOW {n} 4 10 el2 {el2} 0 0 0 0\nWINDOW {n} 4 10 vm1.el1 {guest} 0 0 0 0\n")
        };
        let windows = [window(1, 30, 1), window(2, 10, 900), window(3, 20, 99)].concat();
        let el2 = |typical| {
            let splits = plugin_lines(&windows, false, |id| typical && id == 4).unwrap();
            splits[&4]["el2"].instructions
        };
        assert_eq!((el2(true), el2(false)), (20, 30));
    }

    #[test]
    fn without_hypervisor_all_is_the_guest() {
        let split = plugin_lines("WINDOW 1 0 10 host.el1 30 0 0 0 0\n", true, |_| false).unwrap();
        assert_eq!(split[&0].keys().collect::<Vec<_>>(), [GUEST]);
    }

    #[test]
    fn what_the_guest_cannot_do_is_absent_and_not_zero() {
        let lines = guest_lines(CONSOLE).unwrap();
        let why = "the VM has no MEM_SHARE".to_owned();
        assert_eq!(lines[&15].1, Figure::Absent(why));
    }

    #[test]
    fn broken_lines_are_errors_and_no_figures() {
        for bad in [
            "MICRO x null rounds=1 windows=1 least=1 most=1",
            "MICRO 0 null rounds=0 windows=1 least=1 most=1",
            "MICRO 0 null rounds=1 windows=1 least=1",
            "MICRO 0",
        ] {
            assert!(guest_lines(bad).is_err(), "{bad}");
        }
        assert!(guest_lines(&[CONSOLE, CONSOLE].concat()).is_err());
        assert!(plugin_lines("WINDOW 1 0 10 el2 5 1 1 0", false, |_| false).is_err());
        assert!(plugin_lines("WINDOW 1 0 10 el2 -5 1 1 0 0", false, |_| false).is_err());
    }
}
