//! The places in a program from which the panic handler is reached.

use std::collections::BTreeSet;

use super::code::{Flow, decode};
use super::program::Program;

/// An instruction that leads to a panic.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Site {
    /// Its address, or 0 for a pointer in data.
    pub(super) address: u64,
    /// Where it leads.
    pub(super) target: Target,
    /// The hostvisor or a guest may bring control here.
    pub(super) reached: bool,
}

/// Where a site leads.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Target {
    /// To this panic function, by number.
    Panic(usize),
    /// Nowhere: the instruction traps.
    Trap,
    /// To a function that nobody knows, in code that is reached: it may panic.
    Unknown,
}

/// A reference from one function to the start of another.
struct Edge {
    at: u64,
    from: Option<usize>,
    to: usize,
}

fn is_handler(name: &str) -> bool {
    name.rsplit("::").next() == Some("rust_begin_unwind")
}

fn is_library(name: &str) -> bool {
    let name = name.trim_start_matches(['<', '&']);
    ["core::", "alloc::", "std::"]
        .iter()
        .any(|krate| name.starts_with(krate))
}

/// Finds all panics, by address. `diverging` are functions of the program's own that end it: they count as panic
/// functions, and their callers as sites. `entries` are where the hostvisor and guests bring control in.
///
/// # Errors
/// If the program has no panic handler, or one of the functions named is not there.
pub(super) fn find(
    program: &Program<'_>,
    diverging: &[String],
    entries: &[String],
) -> Result<Vec<Site>, String> {
    let named = |name: &String| {
        let found = program.functions.iter().position(|f| f.name == *name);
        found.ok_or_else(|| format!("has no function {name}"))
    };
    let handler = program.functions.iter().position(|f| is_handler(&f.name));
    let mut panics = diverging
        .iter()
        .map(named)
        .collect::<Result<BTreeSet<_>, _>>()?;
    panics.insert(handler.ok_or("has no panic handler")?);
    let entries = entries.iter().map(named).collect::<Result<Vec<_>, _>>()?;
    let edges = edges(program);
    let flows: Vec<(u64, Flow)> = program
        .code
        .iter()
        .map(|&(at, word)| (at, decode(word, at)))
        .collect();

    // Library functions that lead to a panic and never return are panic functions themselves. Should one be
    // mistaken for none, it is a site.
    let returning: BTreeSet<usize> = flows
        .iter()
        .filter(|(_, flow)| *flow == Flow::Return)
        .filter_map(|&(at, _)| program.function(at))
        .collect();
    let joins = |f: usize| {
        !returning.contains(&f)
            && program
                .functions
                .get(f)
                .is_some_and(|f| is_library(&f.name))
    };
    loop {
        let callers = edges
            .iter()
            .filter(|e| panics.contains(&e.to))
            .filter_map(|e| e.from);
        let new: Vec<usize> = callers
            .filter(|&f| joins(f) && !panics.contains(&f))
            .collect();
        if new.is_empty() {
            break;
        }
        panics.extend(new);
    }

    let mut reached = BTreeSet::new();
    let mut todo = entries;
    while let Some(function) = todo.pop() {
        // A function whose address is taken counts as called. Panics lead nowhere.
        if !panics.contains(&function) && reached.insert(function) {
            todo.extend(
                edges
                    .iter()
                    .filter(|e| e.from == Some(function))
                    .map(|e| e.to),
            );
        }
    }

    let reaches = |at: u64| program.function(at).is_some_and(|f| reached.contains(&f));
    let mut sites: Vec<Site> = edges
        .iter()
        .filter(|e| panics.contains(&e.to) && e.from.is_none_or(|f| !panics.contains(&f)))
        .map(|e| Site {
            address: e.at,
            target: Target::Panic(e.to),
            reached: reaches(e.at),
        })
        .collect();
    for &(address, flow) in &flows {
        let reached = reaches(address);
        let target = match flow {
            // Between functions UDF is padding.
            Flow::Trap if program.function(address).is_some() => Target::Trap,
            Flow::Indirect if reached => Target::Unknown,
            _ => continue,
        };
        sites.push(Site {
            address,
            target,
            reached,
        });
    }
    sites.sort_unstable();
    Ok(sites)
}

fn edges(program: &Program<'_>) -> Vec<Edge> {
    let starts = |address: u64| {
        let function = program.function(address)?;
        (program.functions.get(function)?.start == address).then_some(function)
    };
    let mut edges = Vec::new();
    // What ADRP put into each register, until the function ends.
    let mut pages: [Option<u64>; 32] = [None; 32];
    let mut last = None;
    for &(at, word) in &program.code {
        let from = program.function(at);
        if from != last {
            (pages, last) = ([None; 32], from);
        }
        let to = match decode(word, at) {
            // Into the middle of another function is as good as to its start.
            Flow::Branch(to) => program.function(to).filter(|f| Some(*f) != from),
            Flow::Address(to) => starts(to),
            Flow::Page(register, page) => {
                if let Some(slot) = pages.get_mut(register as usize) {
                    *slot = Some(page);
                }
                None
            }
            Flow::Add(register, offset) => {
                let page = pages.get(register as usize).copied().flatten();
                page.and_then(|page| starts(page + offset))
            }
            _ => None,
        };
        edges.extend(to.map(|to| Edge { at, from, to }));
    }
    let data = program.pointers.iter().filter_map(|&to| starts(to));
    edges.extend(data.map(|to| Edge {
        at: 0,
        from: None,
        to,
    }));
    edges
}

#[cfg(test)]
mod tests {
    use super::super::program::{Function, Program};
    use super::{Site, Target, find};

    const RET: u32 = 0xd65f_03c0;
    const NOP: u32 = 0xd503_201f;
    const BRK: u32 = 0xd420_0020;
    const BLR: u32 = 0xd63f_0100;
    /// The library's panic functions in every program here: 0 is the handler, 1 and 2 lead to it.
    const LIBRARY: [(&str, &[u32]); 3] = [
        ("__rustc::rust_begin_unwind", &[NOP]),
        ("core::panicking::panic_fmt", &[bl(0x100, 0)]),
        ("core::option::unwrap_failed", &[bl(0x200, 0x100)]),
    ];

    const fn bl(at: u64, to: u64) -> u32 {
        0x9400_0000 | (to.wrapping_sub(at) >> 2) as u32 & 0x3ff_ffff
    }

    /// Function n is at n * 0x100. Sites found with "entry" as the entry point, by address.
    fn sites(own: &[(&str, &[u32])], pointers: &[u64]) -> Vec<(u64, Target, bool)> {
        let (mut functions, mut code) = (Vec::new(), Vec::new());
        for (n, (name, words)) in LIBRARY.iter().chain(own).enumerate() {
            let start = n as u64 * 0x100;
            code.extend(
                words
                    .iter()
                    .enumerate()
                    .map(|(n, w)| (start + 4 * n as u64, *w)),
            );
            let (end, name) = (start + 4 * words.len() as u64, (*name).to_owned());
            functions.push(Function { start, end, name });
        }
        let program = Program::of(functions, code, pointers.to_vec());
        let found = find(&program, &[], &["entry".to_owned()]).unwrap();
        let plain = |s: Site| (s.address, s.target, s.reached);
        found.into_iter().map(plain).collect()
    }

    #[test]
    fn a_program_that_cannot_panic_has_no_site() {
        assert_eq!(
            sites(&[("entry", &[bl(0x300, 0x400), RET]), ("f", &[RET])], &[]),
            []
        );
    }

    #[test]
    fn a_call_of_any_panic_function_is_a_site() {
        let entry: &[u32] = &[RET, bl(0x304, 0x200), bl(0x308, 0x100), bl(0x30c, 0)];
        let expected = [(0x304, 2), (0x308, 1), (0x30c, 0)];
        let expected = expected.map(|(at, to)| (at, Target::Panic(to), true));
        assert_eq!(sites(&[("entry", entry)], &[]), expected);
    }

    #[test]
    fn jumps_on_a_condition_and_addresses_taken_are_sites() {
        // cbz x0, 0x200; adrp x1, 0; add x2, x1, #0x100; adr x3, 0x200
        let entry: &[u32] = &[0xb4ff_f800, 0x9000_0001, 0x9104_0022, 0x10ff_f7a3, RET];
        let expected = [(0x300, 2), (0x308, 1), (0x30c, 2)];
        let expected = expected.map(|(at, to)| (at, Target::Panic(to), true));
        assert_eq!(sites(&[("entry", entry)], &[]), expected);
    }

    #[test]
    fn a_pointer_in_data_is_a_site() {
        assert_eq!(
            sites(&[("entry", &[RET])], &[0x100, 0x300]),
            [(0, Target::Panic(1), false)]
        );
    }

    #[test]
    fn what_the_entry_point_reaches_is_told_from_what_it_does_not() {
        let own: [(&str, &[u32]); 4] = [
            ("entry", &[bl(0x300, 0x400), RET]),
            ("through", &[bl(0x400, 0x500), RET]),
            ("reached", &[bl(0x500, 0x200)]),
            ("boot", &[bl(0x600, 0x200)]),
        ];
        let expected = [
            (0x500, Target::Panic(2), true),
            (0x600, Target::Panic(2), false),
        ];
        assert_eq!(sites(&own, &[]), expected);
    }

    #[test]
    fn a_library_function_that_can_return_is_a_site_itself() {
        let own: [(&str, &[u32]); 2] = [
            ("entry", &[bl(0x300, 0x400), RET]),
            ("core::str::next", &[bl(0x400, 0x200), RET]),
        ];
        assert_eq!(sites(&own, &[]), [(0x400, Target::Panic(2), true)]);
    }

    #[test]
    fn a_function_that_never_returns_is_no_panic_function_unless_it_is_the_librarys() {
        let own: [(&str, &[u32]); 2] = [
            ("entry", &[bl(0x300, 0x400), RET]),
            ("serve_for_ever", &[bl(0x400, 0x200)]),
        ];
        assert_eq!(sites(&own, &[]), [(0x400, Target::Panic(2), true)]);
    }

    #[test]
    fn traps_everywhere_and_indirect_calls_in_what_is_reached_are_sites() {
        let own: [(&str, &[u32]); 2] = [("entry", &[BRK, BLR, RET]), ("boot", &[BRK, BLR, RET])];
        let expected = [
            (0x300, Target::Trap, true),
            (0x304, Target::Unknown, true),
            (0x400, Target::Trap, false),
        ];
        assert_eq!(sites(&own, &[]), expected);
    }

    #[test]
    fn a_program_without_handler_or_entry_is_an_error() {
        let function = |name: &str| Function {
            start: 0,
            end: 4,
            name: name.to_owned(),
        };
        let of = |name| Program::of(vec![function(name)], vec![(0, RET)], Vec::new());
        let no_handler = find(&of("f"), &[], &[]).unwrap_err();
        assert!(no_handler.contains("handler"), "{no_handler}");
        let no_entry = find(&of("rust_begin_unwind"), &[], &["f".to_owned()]).unwrap_err();
        assert!(no_entry.contains("function f"), "{no_entry}");
    }
}
