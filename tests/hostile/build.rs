//! Hands the hostvisor's linker script to the bare-metal link: the image format is the same.

fn main() {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../linker/hostvisor.ld");
    println!("cargo:rerun-if-changed={script}");
    println!("cargo:rerun-if-changed=src/asm");
    if std::env::var("CARGO_CFG_TARGET_OS").is_ok_and(|os| os == "none") {
        println!("cargo:rustc-link-arg-bins=-T{script}");
    }
}
