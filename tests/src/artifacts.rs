//! Where `make build guest hostile-payload` puts what the tests run.

use std::path::PathBuf;

/// What is built and fetched before the tests run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Artifact {
    /// Boot, corevisor and hostvisor in one image.
    Payload,
    /// The same, as linked, with symbols.
    PayloadElf,
    /// The same trusted code with the hostile hostvisor in the hostvisor's place.
    HostilePayload,
    /// The `cloister` tool.
    Tool,
    /// The bare-metal test guest as a flat image.
    TestGuest,
    /// A Linux program that spreads a secret over its machine.
    SecretKeeper,
    /// A small arm64 kernel with CONFIG_ARM_PKVM_GUEST.
    KernelPkvm,
    /// Debian's arm64 cloud kernel 6.1.
    Kernel61,
    /// Debian's arm64 cloud kernel 6.12.
    Kernel612,
    /// The busybox initramfs.
    Initrd,
}

impl Artifact {
    fn name(self) -> &'static str {
        match self {
            Self::Payload => "cloister.img",
            Self::PayloadElf => "cloister.elf",
            Self::HostilePayload => "cloister-hostile.img",
            Self::Tool => "bin/cloister",
            Self::TestGuest => "test-guest.bin",
            Self::SecretKeeper => "secret-keeper",
            Self::KernelPkvm => "guest/pkvm/Image",
            Self::Kernel61 => "guest/6.1/Image",
            Self::Kernel612 => "guest/6.12/Image",
            Self::Initrd => "guest/initrd.gz",
        }
    }

    /// What makes it.
    fn target(self) -> &'static str {
        match self {
            Self::HostilePayload => "make hostile-payload",
            Self::KernelPkvm => "make guest-kernel",
            _ => "make build guest",
        }
    }

    /// The file's path.
    ///
    /// # Panics
    /// If it is not there: a test without its subject fails, it is never skipped.
    #[must_use]
    pub fn path(self) -> PathBuf {
        let path = build_dir().join(self.name());
        assert!(
            path.is_file(),
            "{} is missing: run `{}`",
            path.display(),
            self.target()
        );
        path
    }
}

/// The root of the source tree.
#[must_use]
pub fn source_dir() -> PathBuf {
    let tests = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    tests.parent().map_or(tests.clone(), PathBuf::from)
}

/// `build/`, or the directory that the environment variable `CLOISTER_BUILD` names.
#[must_use]
pub fn build_dir() -> PathBuf {
    std::env::var_os("CLOISTER_BUILD").map_or_else(|| source_dir().join("build"), PathBuf::from)
}

/// A directory for the files of one test, which is empty: `build/test-runs/TEST/`.
///
/// # Panics
/// If it cannot be made.
#[must_use]
pub fn scratch_dir(test: &str) -> PathBuf {
    let dir = build_dir().join("test-runs").join(test.replace("::", "-"));
    let _ = std::fs::remove_dir_all(&dir);
    std::fs::create_dir_all(&dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
    dir
}
