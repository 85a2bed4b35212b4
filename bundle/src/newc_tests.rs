use super::*;
use alloc::{string::String, vec::Vec};
use proptest::prelude::*;

fn archive(files: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut writer = Writer::new();
    for (name, data) in files {
        writer.file(name, data).unwrap();
    }
    writer.finish()
}

fn read(bytes: &[u8]) -> Result<Vec<Entry<'_>>, Error> {
    Reader::new(bytes).collect()
}

fn files() -> impl Strategy<Value = Vec<(String, Vec<u8>)>> {
    prop::collection::vec(
        (
            "[a-z0-9/.é]{1,40}",
            prop::collection::vec(any::<u8>(), 0..50),
        ),
        0..6,
    )
}

proptest! {
    #[test]
    fn what_is_written_is_read(files in files()) {
        let bytes = archive(&files);
        let back: Vec<_> = read(&bytes).unwrap().iter()
            .map(|e| { assert!(e.is_file()); (String::from(e.name), e.data.to_vec()) }).collect();
        prop_assert_eq!(back, files);
    }

    #[test]
    fn cut_off_anywhere_is_an_error_at_the_cut(files in files(), part in any::<prop::sample::Index>()) {
        let bytes = archive(&files);
        let cut = part.index(bytes.len());
        let error = read(&bytes[..cut]).unwrap_err();
        prop_assert_eq!(error.offset, cut);
    }

    #[test]
    fn any_bytes_end_in_entries_or_an_error_inside(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        if let Err(error) = read(&bytes) {
            prop_assert!(error.offset <= bytes.len());
        }
    }

    #[test]
    fn any_damage_to_an_archive_is_survived(files in files(), at in any::<prop::sample::Index>(), byte: u8) {
        let mut bytes = archive(&files);
        let at = at.index(bytes.len());
        bytes[at] = byte;
        for entry in Reader::new(&bytes).flatten() {
            prop_assert!(entry.offset < bytes.len());
        }
    }

    #[test]
    fn zeros_after_the_trailer_are_padding_and_nothing_else_is(zeros in 0_usize..2000, other in 1_u8..) {
        let mut bytes = archive(&[(String::from("a"), Vec::new())]);
        bytes.resize(bytes.len() + zeros, 0);
        prop_assert_eq!(read(&bytes).unwrap().len(), 1);
        bytes.push(other);
        let fault = Error { offset: bytes.len() - 1, fault: Fault::AfterTrailer };
        prop_assert_eq!(read(&bytes), Err(fault));
    }
}

#[test]
fn the_writer_repeats_itself_and_cpio_knows_the_layout() {
    let bytes = archive(&[(String::from("ab"), b"hello".to_vec())]);
    assert_eq!(
        bytes.escape_ascii().to_string(),
        "070701\
         00000001\
         000081a4\
         00000001\
         00000000\
         00000000\
         00000000\
         00000005\
         00000000000000000000000000000000\
         00000003\
         00000000\
         ab\\x00\\x00\\x00\\x00hello\\x00\\x00\\x00\
         070701\
         0000000000000000\
         00000001\
         00000000000000000000000000000000\
         00000000000000000000000000000000\
         0000000b\
         00000000\
         TRAILER!!!\\x00\\x00\\x00\\x00"
            .replace("\n", "")
    );
}

#[test]
fn every_fault_names_its_byte() {
    let good = archive(&[(String::from("ab"), b"hello".to_vec())]);
    let damaged = |at: usize, with: &[u8]| {
        let mut bytes = good.clone();
        bytes[at..at + with.len()].copy_from_slice(with);
        read(&bytes).map(|_| ()).unwrap_err()
    };
    let error = |offset, fault| Error { offset, fault };
    assert_eq!(damaged(0, b"070702"), error(0, Fault::BadMagic(*b"070702")));
    assert_eq!(damaged(14, b"0000 1A4"), error(14, Fault::BadHex("mode")));
    assert_eq!(damaged(14, b"+00001A4"), error(14, Fault::BadHex("mode")));
    assert_eq!(
        damaged(94, b"00000101"),
        error(110, Fault::NameTooLong(256))
    );
    assert_eq!(
        damaged(94, b"FFFFFFFF"),
        error(110, Fault::NameTooLong(u32::MAX - 1))
    );
    assert_eq!(damaged(94, b"00000000"), error(110, Fault::BadName));
    assert_eq!(damaged(94, b"00000001"), error(110, Fault::BadName));
    assert_eq!(damaged(110, b"\0"), error(110, Fault::BadName));
    assert_eq!(damaged(110, b"\xff"), error(110, Fault::BadName));
    assert_eq!(damaged(113, b"x"), error(113, Fault::BadPadding));
    assert_eq!(
        damaged(54, b"FFFFFFFF"),
        error(
            good.len(),
            Fault::CutOff {
                part: "data",
                missing: 0xffff_ffff - (good.len() - 116)
            }
        )
    );
    assert_eq!(read(b"").unwrap_err(), error(0, Fault::NoTrailer));
    assert_eq!(
        damaged(0, b"\x1f\x8b\x08").to_string(),
        "cpio archive, byte 0: gzip-compressed; must be an uncompressed newc archive"
    );
}

#[test]
fn names_that_do_not_fit_are_not_written() {
    let mut writer = Writer::new();
    for name in ["", "a\0b", TRAILER, "x".repeat(MAX_NAME + 1).as_str()] {
        assert_eq!(writer.file(name, b""), Err(WriteError::BadName));
    }
    assert_eq!(writer.file(&"x".repeat(MAX_NAME), b""), Ok(()));
}
