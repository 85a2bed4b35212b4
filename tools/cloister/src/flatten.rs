//! ELF → flat image: what lies in memory from address 0 on, byte for byte.
//!
//! The bare-metal programs are linked at 0 and relocate themselves; firmware (or the core) loads
//! them as one run of bytes and starts them at the first. Zeros at the end (.bss) are left out: the
//! program's own entry code clears them.

use std::fs;
use std::path::Path;

use object::Endianness;
use object::elf::{EM_AARCH64, ET_DYN, ET_EXEC, FileHeader64, PT_INTERP, PT_LOAD};
use object::read::elf::{FileHeader, ProgramHeader};

use crate::error::{Error, Result};
use crate::size::Size;

/// Most memory a flattened program may span; a stray segment would make a huge file.
const LIMIT: u64 = 256 << 20;

/// Reads the ELF file `input` and writes its flat image to `output`; returns a line about it.
pub(crate) fn run(input: &Path, output: &Path) -> Result<String> {
    let elf = fs::read(input).map_err(|e| Error::file(input, &e))?;
    let flat = flatten(&elf)
        .map_err(|reason| Error::config(format_args!("{}: {reason}", input.display())))?;
    // The boot program embeds the hostvisor's image: an unchanged file spares building it anew.
    if fs::read(output).ok().as_ref() != Some(&flat.bytes) {
        fs::write(output, &flat.bytes).map_err(|e| Error::file(output, &e))?;
    }
    Ok(format!(
        "{}: {} in the file, {} in memory",
        output.display(),
        Size(flat.bytes.len() as u64),
        Size(flat.memory)
    ))
}

struct Flat {
    bytes: Vec<u8>,
    /// Bytes of memory the program spans, .bss included.
    memory: u64,
}

struct Segment<'a> {
    base: u64,
    end: u64,
    data: &'a [u8],
}

fn flatten(elf: &[u8]) -> std::result::Result<Flat, String> {
    let header =
        FileHeader64::<Endianness>::parse(elf).map_err(|_| "not a 64-bit ELF file".to_owned())?;
    let endian = header.endian().map_err(|_| "not an ELF file".to_owned())?;
    if endian != Endianness::Little || header.e_machine(endian) != EM_AARCH64 {
        return Err("not a little-endian AArch64 program".to_owned());
    }
    if !matches!(header.e_type(endian), ET_DYN | ET_EXEC) {
        return Err("not a linked program (object file?)".to_owned());
    }
    let headers = header
        .program_headers(endian, elf)
        .map_err(|e| format!("program headers: {e}"))?;
    let mut segments = Vec::new();
    for ph in headers {
        match ph.p_type(endian) {
            PT_INTERP => return Err("wants a dynamic loader (PT_INTERP)".to_owned()),
            PT_LOAD if ph.p_memsz(endian) > 0 => segments.push(segment(ph, endian, elf)?),
            _ => {}
        }
    }
    segments.sort_by_key(|s| s.base);
    let (Some(first), Some(last)) = (segments.first(), segments.last()) else {
        return Err("nothing to load (no PT_LOAD segment)".to_owned());
    };
    if first.base != 0 {
        return Err(format!("starts at {:#x}, must be linked at 0", first.base));
    }
    for (a, b) in segments.iter().zip(segments.iter().skip(1)) {
        if a.end > b.base {
            return Err(format!(
                "segments at {:#x} and {:#x} overlap",
                a.base, b.base
            ));
        }
    }
    let entry = header.e_entry(endian);
    if entry >= last.end {
        return Err(format!("entry point {entry:#x} lies outside the image"));
    }
    let memory = last.end;
    let length = segments
        .iter()
        .map(|s| s.base + s.data.len() as u64)
        .max()
        .unwrap_or(0);
    let mut bytes = vec![0; usize::try_from(length).map_err(|e| e.to_string())?];
    for s in &segments {
        let base = usize::try_from(s.base).map_err(|e| e.to_string())?;
        bytes[base..base + s.data.len()].copy_from_slice(s.data);
    }
    Ok(Flat { bytes, memory })
}

fn segment<'a>(
    ph: &object::elf::ProgramHeader64<Endianness>,
    endian: Endianness,
    elf: &'a [u8],
) -> std::result::Result<Segment<'a>, String> {
    let base = ph.p_vaddr(endian);
    let end = base
        .checked_add(ph.p_memsz(endian))
        .filter(|&end| end <= LIMIT)
        .ok_or_else(|| format!("segment at {base:#x} ends beyond {}", Size(LIMIT)))?;
    let data = ph
        .data(endian, elf)
        .map_err(|()| format!("segment at {base:#x} lies outside the file (cut off?)"))?;
    if data.len() as u64 > ph.p_memsz(endian) {
        return Err(format!(
            "segment at {base:#x} is larger in the file than in memory"
        ));
    }
    Ok(Segment { base, end, data })
}

#[cfg(test)]
mod tests {
    use super::flatten;

    /// (vaddr, data, memsz)
    type Load<'a> = (u64, &'a [u8], u64);

    fn elf(loads: &[Load<'_>]) -> Vec<u8> {
        let mut file = Vec::new();
        file.extend(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
        file.extend(3_u16.to_le_bytes()); // ET_DYN
        file.extend(183_u16.to_le_bytes()); // EM_AARCH64
        file.extend(1_u32.to_le_bytes());
        file.extend(0_u64.to_le_bytes()); // entry
        file.extend(64_u64.to_le_bytes()); // program headers
        file.extend(0_u64.to_le_bytes());
        file.extend(0_u32.to_le_bytes());
        for half in [64, 56, loads.len() as u16, 64, 0, 0] {
            file.extend(half.to_le_bytes());
        }
        let mut offset = 64 + 56 * loads.len() as u64;
        for (vaddr, data, memsz) in loads {
            file.extend(1_u32.to_le_bytes()); // PT_LOAD
            file.extend(5_u32.to_le_bytes());
            for word in [offset, *vaddr, *vaddr, data.len() as u64, *memsz, 4096] {
                file.extend(word.to_le_bytes());
            }
            offset += data.len() as u64;
        }
        for (_, data, _) in loads {
            file.extend(*data);
        }
        file
    }

    fn fail(elf: &[u8]) -> String {
        match flatten(elf) {
            Ok(_) => panic!("accepted"),
            Err(reason) => reason,
        }
    }

    #[test]
    fn segments_land_at_their_addresses_with_zeros_between() {
        let flat = flatten(&elf(&[(8, b"data", 4), (0, b"text", 4), (16, b"x", 100)])).unwrap();
        assert_eq!(flat.bytes, b"text\0\0\0\0data\0\0\0\0x");
        assert_eq!(flat.memory, 116);
    }

    #[test]
    fn bss_before_other_data_is_zeros_in_the_file() {
        let flat = flatten(&elf(&[(0, b"t", 8), (8, b"", 8), (16, b"d", 1)])).unwrap();
        assert_eq!(flat.bytes, b"t\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0d");
    }

    #[test]
    fn what_cannot_be_loaded_at_zero_is_refused() {
        assert!(fail(b"MZ").contains("not a 64-bit ELF"));
        assert!(fail(&elf(&[])).contains("no PT_LOAD"));
        assert!(fail(&elf(&[(4096, b"t", 4)])).contains("linked at 0"));
        assert!(fail(&elf(&[(0, b"text", 4), (2, b"data", 4)])).contains("overlap"));
        assert!(fail(&elf(&[(0, b"text", 2)])).contains("larger in the file"));
        assert!(fail(&elf(&[(0, b"text", u64::MAX)])).contains("beyond 256M"));
        assert!(fail(&elf(&[(0, b"text", 4), (u64::MAX, b"", 4)])).contains("beyond"));
        let mut x86 = elf(&[(0, b"t", 4)]);
        x86[18] = 62;
        assert!(fail(&x86).contains("AArch64"));
    }

    #[test]
    fn a_file_cut_off_anywhere_is_refused() {
        let whole = elf(&[(0, b"text", 4), (8, b"data", 4)]);
        for length in 0..whole.len() {
            let _ = fail(&whole[..length]);
        }
    }
}
