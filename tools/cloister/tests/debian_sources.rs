//! `tools/debian-sources`: finds the machine's own Debian archive in both formats that apt knows.

use std::fs;
use std::path::Path;
use std::process::Command;

/// Runs the script on `files` in a stand-in for /etc/apt, on a machine whose suite is "here".
fn sources(files: &[(&str, &str)]) -> Result<String, String> {
    let etc = tempfile::tempdir().unwrap();
    fs::create_dir(etc.path().join("sources.list.d")).unwrap();
    for (name, text) in files {
        fs::write(etc.path().join(name), text).unwrap();
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../debian-sources");
    let output = Command::new(script)
        .args(["other"])
        .env("CLOISTER_APT_ETC", etc.path())
        .env("CLOISTER_CODENAME", "here")
        .output()
        .unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    if output.status.success() {
        Ok(text(output.stdout))
    } else {
        Err(text(output.stderr))
    }
}

const PLAIN: &str =
    "Types: deb\nURIs: http://mirror.example/debian\nSuites: other\nComponents: main\n\n";
const SIGNED: &str = "Types: deb\nURIs: http://mirror.example/debian\nSuites: other\nComponents: main\n\
                      Signed-By: /keys/debian.gpg\n\n";

#[test]
fn one_line_format() {
    let list = "# deb http://old.example/debian here main\n\
                deb http://security.example/debian here-security main\n\
                deb http://mirror.example/debian here main contrib\n";
    assert_eq!(sources(&[("sources.list", list)]).as_deref(), Ok(PLAIN));
    let list =
        "deb [ arch=amd64 signed-by=/keys/debian.gpg ] http://mirror.example/debian here main\n";
    assert_eq!(
        sources(&[("sources.list.d/debian.list", list)]).as_deref(),
        Ok(SIGNED)
    );
}

#[test]
fn deb822_format() {
    let stanzas = "Types: deb-src\nURIs: http://source.example/debian\nSuites: here\nComponents: main\n\n\
                   Enabled: no\nTypes: deb\nURIs: http://off.example/debian\nSuites: here\nComponents: main\n\n\
                   Types: deb deb-src\n# a comment\nURIs: http://mirror.example/debian\n\
                   Suites: here-updates here\nComponents: main\nSigned-By: /keys/debian.gpg\n";
    let file = ("sources.list.d/debian.sources", stanzas);
    assert_eq!(sources(&[file]).as_deref(), Ok(SIGNED));
}

#[test]
fn an_embedded_key_is_left_to_apts_own_keyrings() {
    let stanza = "Types: deb\nURIs: http://mirror.example/debian\nSuites: here\nComponents: main\n\
                  Signed-By:\n -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n abc\n";
    let file = ("sources.list.d/debian.sources", stanza);
    assert_eq!(sources(&[file]).as_deref(), Ok(PLAIN));
}

#[test]
fn a_machine_without_debian_sources_is_told_so() {
    let error = sources(&[(
        "sources.list",
        "deb http://mirror.example/x elsewhere main\n",
    )]);
    let error = error.unwrap_err();
    assert!(
        error.contains("no package source for suite 'here'"),
        "{error}"
    );
    assert_eq!(error.lines().count(), 1);
}
