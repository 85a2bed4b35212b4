//! Hands the linker script to the linker when the guest is built for bare metal.

fn main() {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../linker/test-guest.ld");
    println!("cargo:rerun-if-changed={script}");
    println!("cargo:rerun-if-changed=src/asm");
    if std::env::var("CARGO_CFG_TARGET_OS").is_ok_and(|os| os == "none") {
        println!("cargo:rustc-link-arg-bins=-T{script}");
    }
}
