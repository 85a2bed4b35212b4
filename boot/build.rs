//! Links the payload by `linker/boot.ld` and embeds the hostvisor's flat image, which the
//! environment variable `CLOISTER_HOSTVISOR` names. Without it an empty image is embedded: the
//! payload then builds, and says at boot that it has no hostvisor.

use std::path::PathBuf;
use std::{env, fs};

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed=CLOISTER_HOSTVISOR");
    let out =
        PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR")).join("hostvisor.bin");
    match env::var_os("CLOISTER_HOSTVISOR").filter(|name| !name.is_empty()) {
        Some(name) => {
            let path = PathBuf::from(name);
            println!("cargo:rerun-if-changed={}", path.display());
            if let Err(error) = fs::copy(&path, &out) {
                panic!(
                    "CLOISTER_HOSTVISOR: cannot read {}: {error}",
                    path.display()
                );
            }
        }
        None => fs::write(&out, b"").expect("OUT_DIR is writable"),
    }
    if env::var("CARGO_CFG_TARGET_OS").as_deref() == Ok("none") {
        let root = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"));
        let script = root.join("../linker/boot.ld");
        println!("cargo:rerun-if-changed={}", script.display());
        println!("cargo:rustc-link-arg-bins=-T{}", script.display());
    }
}
