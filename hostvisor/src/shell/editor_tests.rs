use super::*;
use alloc::vec::Vec;
use proptest::prelude::*;

impl Output for Vec<u8> {
    fn write(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }
}

const NAMES: [&str; 3] = ["web", "db", "web-2"];

/// Types `bytes`; the finished lines and what the terminal got.
fn type_in(editor: &mut Editor, bytes: &[u8]) -> (Vec<String>, String) {
    let mut out = Vec::new();
    let mut lines = Vec::new();
    for &byte in bytes {
        lines.extend(editor.input(byte, &NAMES, &mut out));
    }
    (lines, String::from_utf8(out).unwrap())
}

fn lines(bytes: &[u8]) -> Vec<String> {
    type_in(&mut Editor::new(), bytes).0
}

/// What a terminal's bottom line shows after `bytes`.
fn screen(bytes: &str) -> String {
    let mut line = Vec::new();
    let mut column = 0;
    for c in bytes.chars() {
        match c {
            '\n' => line.clear(),
            '\r' => column = 0,
            '\x08' => column -= 1,
            '\x07' => {}
            c => {
                line.truncate(column.max(line.len()));
                if column < line.len() {
                    line[column] = c
                } else {
                    line.push(c)
                }
                column += 1;
            }
        }
    }
    line.iter().take(column).collect()
}

#[test]
fn lines_end_with_return_line_feed_or_both() {
    assert_eq!(
        lines(b"a\rb\nc\r\nd\n\re\r\n\n"),
        ["a", "b", "c", "d", "", "e", ""]
    );
}

#[test]
fn keys_edit_the_line() {
    assert_eq!(lines(b"logg\x7f\r"), ["log"]);
    assert_eq!(lines(b"\x08\x7fx\x08\x08mem\r"), ["mem"]);
    assert_eq!(lines(b"nonsense\x15log\r"), ["log"]);
    assert_eq!(lines(b"nonsense\x03log\r"), ["log"]);
    assert_eq!(lines(b"l\x01o\x00g\xc3\xa9\r"), ["log"]);
    // Arrow left, Home, Delete, F5: not supported, not typed either.
    assert_eq!(lines(b"lo\x1b[D\x1b[H\x1b[3~\x1b[15;2~\x1bxg\r"), ["log"]);
}

#[test]
fn history_is_walked_and_left_again() {
    let mut editor = Editor::new();
    type_in(&mut editor, b"one\rtwo\rtwo\r \rthree\r");
    let up = b"\x1b[A".as_slice();
    let down = b"\x1bOB".as_slice();
    let mut typed = |keys: &[&[u8]]| type_in(&mut editor, &keys.concat()).0.remove(0);
    assert_eq!(typed(&[up, b"\r"]), "three");
    assert_eq!(typed(&[up, up, b"\r"]), "two");
    // Now: one, two, three, two.
    assert_eq!(typed(&[up, up, up, up, up, up, b"\r"]), "one");
    assert_eq!(
        typed(&[b"draft", up, up, down, down, down, b"!\r"]),
        "draft!"
    );
    assert_eq!(typed(&[up, b"?\r"]), "draft!?");
}

#[test]
fn history_is_bounded() {
    let mut editor = Editor::new();
    for i in 0..50 {
        type_in(&mut editor, alloc::format!("{i}\r").as_bytes());
    }
    assert_eq!(editor.history.len(), HISTORY);
    let keys = [b"\x1b[A".repeat(99), b"\r".to_vec()].concat();
    assert_eq!(type_in(&mut editor, &keys).0, ["34"]);
}

#[test]
fn tab_completes_what_is_unambiguous_and_shows_the_rest() {
    assert_eq!(lines(b"sh\t\r"), ["shutdown "]);
    assert_eq!(lines(b"v\tcon\tw\t\r"), ["vm console web"]);
    assert_eq!(lines(b"vm st\t\tat\r"), ["vm stat"]);
    assert_eq!(lines(b"vm start d\t\r"), ["vm start db "]);
    assert_eq!(lines(b"xyz\tq\r"), ["xyzq"]);
    let (_, shown) = type_in(&mut Editor::new(), b"vm stop we\t\t");
    assert!(
        shown.ends_with("\r\nweb  web-2  \r\ncloister> vm stop web"),
        "{shown:?}"
    );
}

#[test]
fn a_line_that_is_too_long_is_answered_with_a_bell() {
    let (lines, shown) = type_in(
        &mut Editor::new(),
        &[b"x".repeat(MAX_LINE + 5), b"\r".to_vec()].concat(),
    );
    assert_eq!(lines, ["x".repeat(MAX_LINE)]);
    assert_eq!(shown.matches('\x07').count(), 5);
}

proptest! {
    #[test]
    fn any_keys_are_survived_and_lines_stay_printable(
        keys in prop::collection::vec(prop_oneof![
            any::<u8>().prop_map(|b| vec![b]),
            "[ -~]".prop_map(String::into_bytes),
            Just(b"\x1b[A".to_vec()), Just(b"\x1b[B".to_vec()), Just(b"\t".to_vec()), Just(b"\r".to_vec()),
            Just(b"vm st".to_vec()), Just(b"\x7f".to_vec()),
        ], 0..200)
    ) {
        let mut editor = Editor::new();
        let mut out = Vec::new();
        editor.prompt(&mut out);
        let mut shown = String::from_utf8(out).unwrap();
        for keys in keys {
            let (lines, more) = type_in(&mut editor, &keys);
            shown += &more;
            for line in lines {
                prop_assert!(line.len() <= MAX_LINE && line.bytes().all(|b| matches!(b, b' '..=b'~')));
                let mut out = Vec::new();
                editor.prompt(&mut out);
                shown += str::from_utf8(&out).unwrap();
            }
            // The terminal shows what the editor holds, whatever was pressed.
            prop_assert_eq!(screen(&shown), alloc::format!("{PROMPT}{}", editor.line));
        }
    }
}
