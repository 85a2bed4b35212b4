//! The linked payload panics only where `boot/panics.toml` says, with reasons. No machine is started.

use std::fs;
use std::process::{Command, Output};

use tests::artifacts::{Artifact, scratch_dir, source_dir};

fn compare(list: &str, scratch: &str) -> Output {
    let path = scratch_dir(scratch).join("panics.toml");
    fs::write(&path, list).unwrap();
    Command::new(Artifact::Tool.path())
        .arg("panics")
        .args([Artifact::PayloadElf.path(), path])
        .current_dir(source_dir())
        .output()
        .unwrap()
}

fn list() -> String {
    fs::read_to_string(source_dir().join("boot/panics.toml")).unwrap()
}

#[test]
fn every_panic_that_is_left_is_on_the_list() {
    let output = compare(&list(), "panics-all");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{said}");
}

/// As if each panic of the list had just been put into the code, one at a time.
#[test]
fn a_panic_that_is_not_on_the_list_is_found() {
    let list = list();
    let mut blocks = list.split("\n[[").collect::<Vec<_>>();
    let head = blocks.remove(0);
    for missing in 0..blocks.len() {
        let mut some = head.to_owned();
        for (n, block) in blocks.iter().enumerate() {
            if n != missing {
                some = some + "\n[[" + block;
            }
        }
        let output = compare(&some, "panics-one-missing");
        let said = String::from_utf8_lossy(&output.stderr);
        let what = blocks[missing];
        assert_eq!(
            output.status.code(),
            Some(1),
            "not found without\n{what}\n{said}"
        );
    }
}
