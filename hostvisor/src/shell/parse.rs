//! From a line to a command.

use crate::sched::fair::MAX_WEIGHT;
use alloc::vec::Vec;
use core::fmt;

/// A command.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Command<'a> {
    /// `help`
    Help,
    /// `vm list`
    List,
    /// `vm top`
    Top,
    /// `vm ACTION NAME`
    Vm(Action, &'a str),
    /// `vm weight NAME N`
    Weight(&'a str, u32),
    /// `log`
    Log,
    /// `mem`
    Memory,
    /// `cpu`
    Cpus,
    /// `probe ADDR`
    Probe(u64),
    /// `scan WORD`
    Scan(u64),
    /// `disk`
    Disks,
    /// `disk check NAME`
    CheckDisk(&'a str),
    /// `disk fail NAME N`
    FailDisk(&'a str, u32),
    /// `net`
    Nets,
    /// `shutdown`
    Shutdown,
}

/// What to do to one VM.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs, reason = "each is what its name says")]
pub enum Action {
    Stat,
    Console,
    Stop,
    Start,
    Restart,
    Destroy,
    Weight,
}

/// The first words of commands.
pub const COMMANDS: [&str; 10] = [
    "help", "vm", "log", "mem", "cpu", "disk", "net", "probe", "scan", "shutdown",
];
/// What may follow `vm`.
pub const VM_COMMANDS: [&str; 9] = [
    "list", "top", "stat", "console", "stop", "start", "restart", "destroy", "weight",
];

impl Action {
    /// Every action on one VM.
    pub const ALL: [Self; 7] = [
        Self::Stat,
        Self::Console,
        Self::Stop,
        Self::Start,
        Self::Restart,
        Self::Destroy,
        Self::Weight,
    ];

    /// The action as typed.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Stat => "stat",
            Self::Console => "console",
            Self::Stop => "stop",
            Self::Start => "start",
            Self::Restart => "restart",
            Self::Destroy => "destroy",
            Self::Weight => "weight",
        }
    }
}

/// Why a line is not a command.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Error<'a> {
    /// No command starts with this word.
    UnknownCommand(&'a str),
    /// `vm` and nothing.
    NoAction,
    /// `vm` cannot do this.
    UnknownAction(&'a str),
    /// The VM's name is missing.
    NoName(Action),
    /// `vm weight NAME` and nothing.
    NoWeight,
    /// Not a weight.
    BadWeight(&'a str),
    /// `probe` and nothing.
    NoAddress,
    /// `disk` cannot do this.
    UnknownDiskAction(&'a str),
    /// `disk check` or `disk fail`, and nothing.
    NoDisk(&'static str),
    /// `disk fail NAME` and nothing, or not a number.
    BadCount(&'a str),
    /// Not a number of 64 bits.
    BadAddress(&'a str),
    /// `scan` and nothing.
    NoWord,
    /// Not a number of 64 bits.
    BadWord(&'a str),
    /// A word too many, behind this command.
    Extra(&'static str, &'a str),
}

impl fmt::Display for Error<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::UnknownCommand(word) => {
                write!(f, "{}: unknown command (help lists them)", Typed(word))
            }
            Self::NoAction => {
                write!(f, "vm: what about it? one of ")?;
                list_actions(f)
            }
            Self::UnknownAction(word) => {
                write!(f, "vm {}: unknown, must be one of ", Typed(word))?;
                list_actions(f)
            }
            Self::NoName(action) => {
                write!(
                    f,
                    "vm {}: NAME of a VM is missing (vm list shows them)",
                    action.name()
                )
            }
            Self::NoWeight => write!(f, "vm weight: N, from 1 to {MAX_WEIGHT}, is missing"),
            Self::BadWeight(word) => write!(
                f,
                "vm weight: '{}' is not a number from 1 to {MAX_WEIGHT}",
                Typed(word)
            ),
            Self::NoAddress => write!(f, "probe: physical address ADDR is missing"),
            Self::UnknownDiskAction(word) => write!(
                f,
                "disk {}: unknown, must be nothing, 'check NAME' or 'fail NAME N'",
                Typed(word)
            ),
            Self::NoDisk(command) => {
                write!(f, "{command}: NAME of a disk is missing (disk shows them)")
            }
            Self::BadCount("") => write!(f, "disk fail: N, how many requests fail, is missing"),
            Self::BadCount(word) => write!(
                f,
                "disk fail: '{}' is not a number of requests",
                Typed(word)
            ),
            Self::BadAddress(word) => write!(
                f,
                "probe: '{}' is not an address (64 bits, hexadecimal with 0x or decimal)",
                Typed(word)
            ),
            Self::NoWord => write!(
                f,
                "scan: WORD, the complement of what to look for, is missing"
            ),
            Self::BadWord(word) => write!(
                f,
                "scan: '{}' is not a word (64 bits, hexadecimal with 0x or decimal)",
                Typed(word)
            ),
            Self::Extra(command, word) => {
                write!(f, "{command}: '{}' is one word too many", Typed(word))
            }
        }
    }
}

impl core::error::Error for Error<'_> {}

fn list_actions(f: &mut fmt::Formatter<'_>) -> fmt::Result {
    VM_COMMANDS
        .iter()
        .enumerate()
        .try_for_each(|(i, name)| write!(f, "{}{name}", if i == 0 { "" } else { ", " }))
}

/// A word somebody typed, escaped and shortened so that the message stays one line.
pub struct Typed<'a>(pub &'a str);

impl fmt::Display for Typed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const MAX: usize = 40;
        let mut chars = self.0.chars();
        for c in chars.by_ref().take(MAX) {
            if c.is_control() {
                write!(f, "{}", c.escape_default())?
            } else {
                write!(f, "{c}")?
            }
        }
        if chars.next().is_some() {
            f.write_str("...")
        } else {
            Ok(())
        }
    }
}

/// Reads a line. A blank one is no command.
pub fn parse(line: &str) -> Result<Option<Command<'_>>, Error<'_>> {
    let mut words = line.split_ascii_whitespace();
    let Some(first) = words.next() else {
        return Ok(None);
    };
    let (command, name) = match first {
        "help" | "?" => (Command::Help, "help"),
        "log" => (Command::Log, "log"),
        "mem" => (Command::Memory, "mem"),
        "cpu" => (Command::Cpus, "cpu"),
        "net" => (Command::Nets, "net"),
        "shutdown" => (Command::Shutdown, "shutdown"),
        "probe" => {
            let word = words.next().ok_or(Error::NoAddress)?;
            (
                Command::Probe(number(word).ok_or(Error::BadAddress(word))?),
                "probe",
            )
        }
        "scan" => {
            let word = words.next().ok_or(Error::NoWord)?;
            (
                Command::Scan(number(word).ok_or(Error::BadWord(word))?),
                "scan",
            )
        }
        "disk" => match words.next() {
            None => (Command::Disks, "disk"),
            Some("check") => (
                Command::CheckDisk(words.next().ok_or(Error::NoDisk("disk check"))?),
                "disk check",
            ),
            Some("fail") => {
                let name = words.next().ok_or(Error::NoDisk("disk fail"))?;
                let word = words.next().unwrap_or_default();
                let count = number(word).and_then(|count| u32::try_from(count).ok());
                let count = count.ok_or(Error::BadCount(word))?;
                (Command::FailDisk(name, count), "disk fail")
            }
            Some(word) => return Err(Error::UnknownDiskAction(word)),
        },
        "vm" => match words.next().ok_or(Error::NoAction)? {
            "list" => (Command::List, "vm list"),
            "top" => (Command::Top, "vm top"),
            word => {
                let action = Action::ALL.into_iter().find(|a| a.name() == word);
                let action = action.ok_or(Error::UnknownAction(word))?;
                let name = words.next().ok_or(Error::NoName(action))?;
                let command = match action {
                    Action::Weight => {
                        let word = words.next().ok_or(Error::NoWeight)?;
                        Command::Weight(name, weight(word).ok_or(Error::BadWeight(word))?)
                    }
                    _ => Command::Vm(action, name),
                };
                (command, "vm")
            }
        },
        word => return Err(Error::UnknownCommand(word)),
    };
    match words.next() {
        None => Ok(Some(command)),
        Some(extra) => Err(Error::Extra(name, extra)),
    }
}

/// A weight.
fn weight(word: &str) -> Option<u32> {
    let weight = u32::try_from(number(word)?).ok()?;
    (1..=MAX_WEIGHT).contains(&weight).then_some(weight)
}

/// A number: hexadecimal with 0x, or decimal; `_` may group its digits.
fn number(word: &str) -> Option<u64> {
    let (digits, radix) = match word.strip_prefix("0x").or(word.strip_prefix("0X")) {
        Some(digits) => (digits, 16),
        None => (word, 10),
    };
    let mut value = None;
    for c in digits.chars().filter(|&c| c != '_') {
        let digit = u64::from(c.to_digit(radix)?);
        value = Some(
            value
                .unwrap_or(0_u64)
                .checked_mul(radix.into())?
                .checked_add(digit)?,
        );
    }
    value
}

/// The unfinished word at the end of `line`, and the words that may complete it. `vms` are the VMs'
/// names.
#[must_use]
pub fn complete<'a>(line: &'a str, vms: &[&'a str]) -> (&'a str, Vec<&'a str>) {
    let start = line.rfind(' ').map_or(0, |space| space.saturating_add(1));
    let (before, typed) = line.split_at_checked(start).unwrap_or_default();
    let mut words = before.split_ascii_whitespace();
    let candidates: &[&str] = match (words.next(), words.next(), words.next()) {
        (None, ..) => &COMMANDS,
        (Some("vm"), None, _) => &VM_COMMANDS,
        (Some("vm"), Some(action), None) if Action::ALL.iter().any(|a| a.name() == action) => vms,
        _ => &[],
    };
    (
        typed,
        candidates
            .iter()
            .copied()
            .filter(|word| word.starts_with(typed))
            .collect(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;
    use proptest::prelude::*;

    #[test]
    fn every_command_is_understood() {
        let ok = |line| parse(line).unwrap().unwrap();
        assert_eq!(parse("  \t "), Ok(None));
        assert_eq!(ok("help"), Command::Help);
        assert_eq!(ok(" vm  list "), Command::List);
        assert_eq!(ok("vm top"), Command::Top);
        assert_eq!(ok("vm weight web 300"), Command::Weight("web", 300));
        assert_eq!(ok("log"), Command::Log);
        assert_eq!(ok("mem"), Command::Memory);
        assert_eq!(ok("cpu"), Command::Cpus);
        assert_eq!(ok("net"), Command::Nets);
        assert_eq!(ok("shutdown"), Command::Shutdown);
        assert_eq!(ok("probe 0x4000_0000"), Command::Probe(0x4000_0000));
        assert_eq!(ok("probe 16"), Command::Probe(16));
        assert_eq!(ok("scan 0xf0"), Command::Scan(0xf0));
        assert_eq!(ok("probe 0xffffffffffffffff"), Command::Probe(u64::MAX));
        for action in Action::ALL {
            let line = alloc::format!("vm {} web-1", action.name());
            let command = parse(&line);
            if action == Action::Weight {
                assert_eq!(command, Err(Error::NoWeight));
            } else {
                assert_eq!(command, Ok(Some(Command::Vm(action, "web-1"))));
            }
            assert!(VM_COMMANDS.contains(&action.name()));
        }
    }

    #[test]
    fn a_wrong_line_says_what_and_how() {
        let error = |line: &str| parse(line).unwrap_err().to_string();
        assert_eq!(
            error("virsh list"),
            "virsh: unknown command (help lists them)"
        );
        assert_eq!(
            error("vm"),
            "vm: what about it? one of list, top, stat, console, stop, start, restart, destroy, weight"
        );
        assert_eq!(
            error("vm kill web"),
            "vm kill: unknown, must be one of list, top, stat, console, stop, start, restart, destroy, weight"
        );
        assert_eq!(
            error("vm start"),
            "vm start: NAME of a VM is missing (vm list shows them)"
        );
        for bad in ["0", "1001", "-1", "x", "4294967396", "1.5"] {
            assert_eq!(
                error(&alloc::format!("vm weight web {bad}")),
                alloc::format!("vm weight: '{bad}' is not a number from 1 to 1000")
            );
        }
        assert_eq!(
            error("vm weight web"),
            "vm weight: N, from 1 to 1000, is missing"
        );
        assert_eq!(error("vm weight a 1 b"), "vm: 'b' is one word too many");
        assert_eq!(error("vm top web"), "vm top: 'web' is one word too many");
        assert_eq!(error("vm start a b"), "vm: 'b' is one word too many");
        assert_eq!(error("log all"), "log: 'all' is one word too many");
        assert_eq!(
            error("disk repair a"),
            "disk repair: unknown, must be nothing, 'check NAME' or 'fail NAME N'"
        );
        for command in ["disk check", "disk fail"] {
            assert_eq!(
                error(command),
                alloc::format!("{command}: NAME of a disk is missing (disk shows them)")
            );
        }
        assert_eq!(
            error("disk fail web"),
            "disk fail: N, how many requests fail, is missing"
        );
        for bad in ["-1", "x", "4294967296"] {
            assert_eq!(
                error(&alloc::format!("disk fail web {bad}")),
                alloc::format!("disk fail: '{bad}' is not a number of requests")
            );
        }
        assert_eq!(
            parse("disk fail web 3"),
            Ok(Some(Command::FailDisk("web", 3)))
        );
        assert_eq!(
            error("disk fail web 3 4"),
            "disk fail: '4' is one word too many"
        );
        assert_eq!(error("probe"), "probe: physical address ADDR is missing");
        for bad in ["0x", "zz", "-1", "0x10000000000000000", "_", "12ab", "+1"] {
            assert_eq!(
                error(&alloc::format!("probe {bad}")),
                alloc::format!(
                    "probe: '{bad}' is not an address (64 bits, hexadecimal with 0x or decimal)"
                )
            );
        }
        assert_eq!(
            error("scan"),
            "scan: WORD, the complement of what to look for, is missing"
        );
        assert_eq!(
            error("scan 0x1_0000_0000_0000_0000"),
            "scan: '0x1_0000_0000_0000_0000' is not a word (64 bits, hexadecimal with 0x or decimal)"
        );
        assert_eq!(error("scan 1 2"), "scan: '2' is one word too many");
    }

    fn completions(line: &str) -> Vec<&str> {
        complete(line, &["web", "db", "web-2"]).1
    }

    #[test]
    fn completion_knows_where_it_is() {
        assert_eq!(completions(""), COMMANDS);
        assert_eq!(completions("s"), ["scan", "shutdown"]);
        assert_eq!(completions("vm st"), ["stat", "stop", "start"]);
        assert_eq!(completions("vm stop "), ["web", "db", "web-2"]);
        assert_eq!(completions("vm console we"), ["web", "web-2"]);
        assert_eq!(completions("vm list "), [""; 0]);
        assert_eq!(completions("log "), [""; 0]);
        assert_eq!(completions("vm stop web "), [""; 0]);
    }

    proptest! {
        #[test]
        fn any_line_gives_a_command_or_one_line(line in any::<String>()) {
            if let Err(error) = parse(&line) {
                prop_assert!(!error.to_string().chars().any(char::is_control));
            }
            let _ = completions(&line);
        }

        #[test]
        fn lines_of_known_words_give_a_command_or_one_line(line in "((vm|list|stat|probe|log|0x1|help|web)( |\t)){0,5}") {
            if let Err(error) = parse(&line) {
                prop_assert!(!error.to_string().chars().any(char::is_control));
            }
            let _ = completions(&line);
        }
    }
}
