//! A linked program: its functions, its instructions, the pointers in its data, and where in the
//! sources an instruction comes from.

use std::path::Path;

use addr2line::gimli::{self, EndianSlice, LittleEndian};
use object::elf::{R_AARCH64_RELATIVE, STT_FUNC};
use object::read::elf::{ElfFile64, ElfSymbol64, ProgramHeader, Rela, SectionHeader};
use object::{
    Endianness, Object, ObjectSection, ObjectSymbol, SectionFlags, SectionIndex, SymbolFlags,
};

type Slice<'a> = EndianSlice<'a, LittleEndian>;

/// A function: what its symbol says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Function {
    pub(super) start: u64,
    pub(super) end: u64,
    /// As in the sources, without hash.
    pub(super) name: String,
}

/// A linked program.
pub(super) struct Program<'a> {
    /// By address; none overlap.
    pub(super) functions: Vec<Function>,
    /// Instructions by address.
    pub(super) code: Vec<(u64, u32)>,
    /// Addresses that data hold.
    pub(super) pointers: Vec<u64>,
    lines: addr2line::Context<Slice<'a>>,
}

/// Where an instruction comes from.
#[derive(Default)]
pub(super) struct Origin {
    /// The innermost function that is in this tree, or the innermost at all: its name alone.
    pub(super) function: String,
    /// Its file, from the root of the tree; none if it is not in the tree.
    pub(super) file: Option<String>,
    /// Its line there, if one line it is: what several lines have in common counts as none of them.
    pub(super) line: Option<u32>,
    /// All functions inlined there, the innermost first.
    pub(super) inlined: Vec<String>,
}

impl<'a> Program<'a> {
    /// A program of these functions, without debug information.
    #[cfg(test)]
    pub(super) fn of(functions: Vec<Function>, code: Vec<(u64, u32)>, pointers: Vec<u64>) -> Self {
        let nothing = |_| Ok::<_, gimli::Error>(EndianSlice::new(&[], LittleEndian));
        let dwarf = gimli::Dwarf::load(nothing).unwrap();
        Self {
            functions,
            code,
            pointers,
            lines: addr2line::Context::from_dwarf(dwarf).unwrap(),
        }
    }

    /// Reads an ELF file.
    ///
    /// # Errors
    /// What is wrong with it, or missing.
    pub(super) fn new(elf: &'a [u8]) -> Result<Self, String> {
        let file = ElfFile64::<Endianness>::parse(elf).map_err(|e| e.to_string())?;
        if file.architecture() != object::Architecture::Aarch64 || !file.is_little_endian() {
            return Err("not a little-endian AArch64 program".to_owned());
        }
        let functions = functions(&file);
        if functions.is_empty() {
            return Err("has no symbols".to_owned());
        }
        let section = |id: gimli::SectionId| -> Result<Slice<'a>, String> {
            let data = file.section_by_name(id.name()).map(|s| s.data());
            let data = data.transpose().map_err(|e| e.to_string())?;
            Ok(EndianSlice::new(data.unwrap_or(&[]), LittleEndian))
        };
        let dwarf = gimli::Dwarf::load(section)?;
        Ok(Self {
            functions,
            code: code(&file)?,
            pointers: pointers(&file)?,
            lines: addr2line::Context::from_dwarf(dwarf).map_err(|e| e.to_string())?,
        })
    }

    /// The function that an address is in.
    pub(super) fn function(&self, address: u64) -> Option<usize> {
        let after = self.functions.partition_point(|f| f.start <= address);
        let index = after.checked_sub(1)?;
        (address < self.functions.get(index)?.end).then_some(index)
    }

    /// Where the instruction at `address` comes from; `root` is the folder of the sources.
    pub(super) fn origin(&self, address: u64, root: &Path) -> Origin {
        let mut origin = Origin::default();
        let Ok(mut frames) = self.lines.find_frames(address).skip_all_loads() else {
            return origin;
        };
        while let Ok(Some(frame)) = frames.next() {
            let name = frame.function.and_then(|f| f.raw_name().map(name_of).ok());
            let name = name.unwrap_or_default();
            origin.inlined.push(name.clone());
            let path = frame
                .location
                .as_ref()
                .and_then(|l| Path::new(l.file?).strip_prefix(root).ok());
            if let (None, Some(own)) = (&origin.file, path) {
                origin.file = Some(own.display().to_string());
                origin.line = frame
                    .location
                    .and_then(|l| l.line)
                    .filter(|&line| line != 0);
                origin.function = name;
            }
        }
        origin
    }
}

/// A symbol as the sources have it, without hash and generic arguments, which differ from one compiler to
/// the next.
fn name_of(symbol: impl AsRef<str>) -> String {
    let name = format!("{:#}", rustc_demangle::demangle(symbol.as_ref()));
    without_generics(&name)
}

/// `<A as B>::f::<C>` without `::<C>` and without what is in angle brackets after a name.
fn without_generics(name: &str) -> String {
    let mut out = String::new();
    let mut depth = 0_u32;
    let mut before = ' ';
    for c in name.chars() {
        match c {
            // A bracket that follows a name or `::` holds arguments; one at the start of a path does not.
            '<' if depth > 0 || before.is_alphanumeric() || "_:}".contains(before) => {
                depth += 1;
            }
            '>' if depth > 0 && before != '-' => depth -= 1,
            _ if depth == 0 => out.push(c),
            _ => {}
        }
        before = c;
    }
    out.replace("::::", "::").trim_end_matches("::").to_owned()
}

fn functions(file: &ElfFile64<'_>) -> Vec<Function> {
    let mut functions: Vec<Function> = Vec::new();
    let mut symbols: Vec<_> = file
        .symbols()
        .filter(
            |s| matches!(s.flags(), SymbolFlags::Elf { st_info, .. } if st_info & 0xf == STT_FUNC),
        )
        .filter(|s| s.size() > 0)
        .collect();
    symbols.sort_by_key(|s| (s.address(), s.size()));
    for symbol in symbols {
        // Functions that the linker found to be the same: the first name will do.
        if functions
            .last()
            .is_some_and(|last| symbol.address() < last.end)
        {
            continue;
        }
        functions.push(Function {
            start: symbol.address(),
            end: symbol.address() + symbol.size(),
            name: name_of(symbol.name().unwrap_or("?")),
        });
    }
    functions
}

/// All words of executable sections but those that mapping symbols call data (`$d`, ELF for the Arm 64-bit
/// Architecture, section "Mapping symbols").
fn code(file: &ElfFile64<'_>) -> Result<Vec<(u64, u32)>, String> {
    let mut code = Vec::new();
    for section in file.sections() {
        let SectionFlags::Elf { sh_flags } = section.flags() else {
            continue;
        };
        if sh_flags & u64::from(object::elf::SHF_EXECINSTR) == 0 {
            continue;
        }
        let marks = marks(file, section.index());
        let data = section.data().map_err(|e| e.to_string())?;
        for (n, bytes) in data.chunks_exact(4).enumerate() {
            let address = section.address() + 4 * n as u64;
            let mark = marks
                .partition_point(|&(at, _)| at <= address)
                .checked_sub(1);
            let is_code = mark
                .and_then(|m| marks.get(m))
                .is_none_or(|&(_, code)| code);
            if let (true, Ok(word)) = (is_code, bytes.try_into()) {
                code.push((address, u32::from_le_bytes(word)));
            }
        }
    }
    code.sort_unstable();
    Ok(code)
}

/// Where code (true) and data begin in `section`. Sections that are not loaded, those for debuggers, have such symbols,
/// too, and their addresses, from 0 on, look like this program's.
fn marks(file: &ElfFile64<'_>, section: SectionIndex) -> Vec<(u64, bool)> {
    let mark = |s: ElfSymbol64<'_, '_>| {
        let name = s.name().ok()?;
        let is = |kind: &str| {
            name == kind || name.strip_prefix(kind).is_some_and(|r| r.starts_with('.'))
        };
        (is("$x") || is("$d")).then(|| (s.address(), is("$x")))
    };
    let mut marks: Vec<_> = file
        .symbols()
        .filter(|s| s.section_index() == Some(section))
        .filter_map(mark)
        .collect();
    marks.sort_unstable();
    marks
}

/// What the program's own relocation puts into its data: every pointer of a position-independent program.
fn pointers(file: &ElfFile64<'_>) -> Result<Vec<u64>, String> {
    let (endian, data) = (file.endian(), file.data());
    let mut pointers = Vec::new();
    for section in file.elf_section_table().iter() {
        let relocations = section.rela(endian, data).map_err(|e| e.to_string())?;
        for rela in relocations.into_iter().flat_map(|(list, _)| list) {
            if rela.r_type(endian, false) == R_AARCH64_RELATIVE {
                pointers.push(rela.r_addend(endian).cast_unsigned());
            } else {
                return Err("has relocations that are not RELATIVE".to_owned());
            }
        }
    }
    // Linked at a fixed address its pointers could not be told from numbers.
    let dynamic =
        |p: &object::elf::ProgramHeader64<Endianness>| p.p_type(endian) == object::elf::PT_DYNAMIC;
    if !file.elf_program_headers().iter().any(dynamic) {
        return Err("is not position-independent".to_owned());
    }
    Ok(pointers)
}

#[cfg(test)]
mod tests {
    use super::without_generics;

    #[test]
    fn names_are_the_same_whatever_they_are_instantiated_with() {
        assert_eq!(without_generics("a::b::<u8, C<D>>::e"), "a::b::e");
        assert_eq!(without_generics("a::List<T,_>::push"), "a::List::push");
        assert_eq!(without_generics("<a::B as c::D>::e"), "<a::B as c::D>::e");
        assert_eq!(
            without_generics("<a::B<T> as c::D<U>>::e"),
            "<a::B as c::D>::e"
        );
        assert_eq!(without_generics("a::f::<fn(u8) -> u8>"), "a::f");
        assert_eq!(without_generics("{closure#0}<a::B>"), "{closure#0}");
    }
}
