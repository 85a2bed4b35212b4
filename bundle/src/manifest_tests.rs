use super::*;
use alloc::vec::Vec;
use proptest::prelude::*;

pub(crate) fn manifest() -> impl Strategy<Value = Manifest> {
    (
        ("[a-z0-9-]{1,31}", any::<bool>(), 1..=MAX_VCPUS),
        (
            MIN_MEMORY / MEMORY_ALIGN..=MAX_MEMORY / MEMORY_ALIGN,
            any::<bool>(),
            any::<bool>(),
        ),
        (any::<bool>(), "[ -~é]{0,80}", 1..=MAX_FILE, 0..=MAX_FILE),
    )
        .prop_map(
            |((name, linux, vcpus), (memory, protected, autostart), rest)| {
                let (restart, append, kernel, initrd) = rest;
                Manifest {
                    name,
                    format: if linux { Format::Linux } else { Format::Flat },
                    vcpus,
                    memory: memory * MEMORY_ALIGN,
                    protected,
                    autostart,
                    on_reboot: if restart {
                        OnReboot::Restart
                    } else {
                        OnReboot::Stop
                    },
                    append,
                    kernel,
                    initrd,
                }
            },
        )
}

const GOOD: &str = "name = web\nformat = linux\nvcpus = 2\nmemory = 268435456\nprotected = true\n\
                    autostart = false\non-reboot = restart\nappend = console=ttyAMA0 a = b\n\
                    kernel = 1000\ninitrd = 0\n";

fn fault(text: &str) -> String {
    Manifest::parse(text.as_bytes()).unwrap_err().to_string()
}

proptest! {
    #[test]
    fn the_text_form_survives(manifest in manifest()) {
        prop_assert_eq!(manifest.check(), Ok(()));
        prop_assert_eq!(Manifest::parse(manifest.to_string().as_bytes()), Ok(manifest));
    }

    #[test]
    fn what_parses_is_its_own_only_text(manifest in manifest(), at in any::<prop::sample::Index>(), byte: u8) {
        let mut text = manifest.to_string().into_bytes();
        let at = at.index(text.len());
        text[at] = byte;
        if let Ok(parsed) = Manifest::parse(&text) {
            prop_assert_eq!(parsed.check(), Ok(()));
            prop_assert_eq!(parsed.to_string().into_bytes(), text);
        }
    }

    #[test]
    fn cut_off_anywhere_is_an_error(manifest in manifest(), at in any::<prop::sample::Index>()) {
        let text = manifest.to_string().into_bytes();
        prop_assert!(Manifest::parse(&text[..at.index(text.len())]).is_err());
    }

    #[test]
    fn any_bytes_give_an_answer_of_one_line(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let error = Manifest::parse(&bytes).unwrap_err();
        prop_assert!(!error.to_string().contains('\n'));
    }

    #[test]
    fn any_lines_give_an_answer_of_one_line(lines in prop::collection::vec("(name|memory|append|x\u{7}) = \\PC{0,99}", 0..9)) {
        let error = Manifest::parse((lines.join("\n") + "\n").as_bytes()).unwrap_err();
        prop_assert!(!error.to_string().chars().any(char::is_control));
    }

    #[test]
    fn each_key_is_needed_once_and_in_its_place(which in 0..Key::ALL.len(), other in 0..Key::ALL.len()) {
        let lines: Vec<_> = GOOD.lines().collect();
        let key = Key::ALL[which];
        let text = |lines: &[&str]| lines.join("\n") + "\n";

        let mut without = lines.clone();
        without.remove(which);
        let error = Manifest::parse(text(&without).as_bytes()).unwrap_err();
        prop_assert_eq!(error.fault, Fault::MissingKey(key));

        let mut twice = lines.clone();
        twice.push(lines[which]);
        let error = Manifest::parse(text(&twice).as_bytes()).unwrap_err();
        prop_assert_eq!(error, Error { line: 11, fault: Fault::DuplicateKey(key, which + 1) });

        let mut swapped = lines.clone();
        swapped.swap(which, other);
        let swapped = Manifest::parse(text(&swapped).as_bytes());
        if which == other {
            prop_assert!(swapped.is_ok());
        } else {
            prop_assert!(matches!(swapped.unwrap_err().fault, Fault::OutOfOrder(_)));
        }
    }
}

#[test]
fn a_manifest_is_read_as_written() {
    let manifest = Manifest::parse(GOOD.as_bytes()).unwrap();
    assert_eq!(manifest.name, "web");
    assert_eq!(manifest.append, "console=ttyAMA0 a = b");
    assert!(manifest.protected && !manifest.autostart);
    assert_eq!(manifest.to_string(), GOOD);
}

#[test]
fn messages_say_line_key_and_what_is_allowed() {
    let with = |from: &str, to: &str| {
        assert!(GOOD.contains(from));
        fault(&GOOD.replace(from, to))
    };
    assert_eq!(
        with("name = web", "name = Web"),
        "manifest line 1: name = 'Web', must be 1 to 31 characters a-z, 0-9, '-'"
    );
    assert_eq!(
        with("linux", "elf"),
        "manifest line 2: format = 'elf', must be linux or flat"
    );
    for bad in [
        "0",
        "17",
        "+2",
        "02",
        "",
        "two",
        "18446744073709551616",
        "2 ",
    ] {
        assert_eq!(
            with("vcpus = 2", &format!("vcpus = {bad}")),
            format!("manifest line 3: vcpus = '{bad}', must be a number from 1 to 16")
        );
    }
    for bad in ["31457280", "268435457", "67647832064", "-1"] {
        assert!(with("268435456", bad).starts_with(&format!(
            "manifest line 4: memory = '{bad}', must be bytes: a multiple"
        )));
    }
    assert_eq!(
        with("protected = true", "protected = yes"),
        "manifest line 5: protected = 'yes', must be true or false"
    );
    assert_eq!(
        with("restart", "never"),
        "manifest line 7: on-reboot = 'never', must be restart or stop"
    );
    assert!(with("a = b", "a\tb").starts_with("manifest line 8: append = "));
    assert!(with("a = b", &"x".repeat(MAX_APPEND)).starts_with("manifest line 8: append = "));
    assert!(with("kernel = 1000", "kernel = 0").starts_with("manifest line 9: kernel = '0'"));
    assert_eq!(
        with("vcpus = 2", "cpus = 2"),
        "manifest line 3: unknown key 'cpus', allowed are name, format, vcpus, memory, protected, \
         autostart, on-reboot, append, kernel, initrd"
    );
    assert_eq!(
        with("vcpus = 2", "vcpus=2"),
        "manifest line 3: not of the form 'key = value'"
    );
    assert_eq!(
        with("vcpus = 2", ""),
        "manifest line 3: not of the form 'key = value'"
    );
    assert_eq!(
        with("autostart = false\n", ""),
        "manifest: key 'autostart' is missing, must be true or false"
    );
    assert_eq!(
        fault(&GOOD[..GOOD.len() - 1]),
        "manifest line 10: cut off, no line feed at its end"
    );
    assert_eq!(
        fault(&"x".repeat(5000)),
        "manifest: 5000 bytes, at most 4096 are allowed"
    );
}

#[test]
fn the_limits_in_words_are_the_limits() {
    assert!(Key::Name.allowed().contains(&MAX_NAME.to_string()));
    assert!(Key::Vcpus.allowed().contains(&MAX_VCPUS.to_string()));
    for number in [MEMORY_ALIGN, MIN_MEMORY, MAX_MEMORY] {
        assert!(Key::Memory.allowed().contains(&number.to_string()));
    }
    assert!(Key::Append.allowed().contains(&MAX_APPEND.to_string()));
    assert!(Key::Kernel.allowed().contains(&MAX_FILE.to_string()));
}
