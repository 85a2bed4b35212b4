//! Debian packages for another architecture, through package lists of their own: nothing of the machine's
//! changes, no root is needed, and apt checks the archive's signature and every hash.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::program;
use super::services::NOT_NEEDED;
use crate::error::{Error, Result};
use crate::progress;

/// The scripts that derive private package lists from the machine's own sources, part of this program.
const SCRIPTS: [(&str, &str); 2] = [
    ("private-apt", include_str!("../../../private-apt")),
    ("debian-sources", include_str!("../../../debian-sources")),
];

/// A package in one version, with the hash of its file. Text form: one line of a lock file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Package {
    name: String,
    version: String,
    sha256: String,
}

impl Package {
    fn line(&self) -> String {
        format!("{} {} {}\n", self.name, self.version, self.sha256)
    }

    fn parse(line: &str) -> Option<Self> {
        let mut words = line.split(' ').map(str::to_owned);
        let package = Self {
            name: words.next()?,
            version: words.next()?,
            sha256: words.next()?,
        };
        let hex = |b: u8| matches!(b, b'0'..=b'9' | b'a'..=b'f');
        // These become arguments of apt-get.
        let plain = |text: &str| {
            let allowed = |b: u8| b.is_ascii_alphanumeric() || b"+-.:~".contains(&b);
            text.starts_with(|c: char| c.is_ascii_alphanumeric()) && text.bytes().all(allowed)
        };
        let sound = words.next().is_none()
            && plain(&package.name)
            && plain(&package.version)
            && package.sha256.len() == 64
            && package.sha256.bytes().all(hex);
        sound.then_some(package)
    }
}

/// Reads a lock file.
pub(super) fn read_lock(path: &Path) -> Result<Vec<Package>> {
    let text = fs::read_to_string(path).map_err(|e| Error::file(path, &e))?;
    let line = |(number, line): (usize, &str)| {
        Package::parse(line).ok_or_else(|| {
            Error::config(format_args!(
                "{}:{number}: must be 'NAME VERSION SHA256'",
                path.display()
            ))
        })
    };
    (1..).zip(text.lines()).map(line).collect()
}

/// Writes a lock file.
pub(super) fn write_lock(path: &Path, packages: &[Package]) -> Result<()> {
    let text: String = packages.iter().map(Package::line).collect();
    fs::write(path, text).map_err(|e| Error::file(path, &e))
}

/// A suite of the Debian archive, for arm64, with a folder for lists and packages.
pub(super) struct Archive {
    folder: PathBuf,
    suite: String,
}

impl Archive {
    /// Prepares `folder`. Fetches the package lists if there are none, or if `refresh`.
    pub(super) fn open(folder: &Path, suite: &str, refresh: bool) -> Result<Self> {
        let make = |path: &Path| fs::create_dir_all(path).map_err(|e| Error::file(path, &e));
        make(folder)?;
        let folder = fs::canonicalize(folder).map_err(|e| Error::file(folder, &e))?;
        make(&folder.join("packages"))?;
        for (name, text) in SCRIPTS {
            let path = folder.join(name);
            fs::write(&path, text)
                .and_then(|()| fs::set_permissions(&path, fs::Permissions::from_mode(0o755)))
                .map_err(|e| Error::file(&path, &e))?;
        }
        let archive = Self {
            folder,
            suite: suite.to_owned(),
        };
        let listed = archive.folder.join(format!("lists-of-{suite}"));
        if refresh || !listed.exists() {
            progress(format_args!(
                "fetching the package lists of {suite} for arm64"
            ));
            archive.run(&["apt-get", "-qq", "update"])?;
            fs::write(&listed, "").map_err(|e| Error::file(&listed, &e))?;
        }
        Ok(archive)
    }

    /// Everything that `names` need, themselves included. `whole`: also what only installation needs.
    pub(super) fn closure(&self, names: &[String], whole: bool) -> Result<Vec<Package>> {
        self.write_status(names, whole)?;
        let mut line = vec!["apt-get", "-s", "--no-install-recommends", "install"];
        line.extend(names.iter().map(String::as_str));
        let wanted = inst_lines(&self.run(&line)?);
        let pairs: Vec<String> = wanted.iter().map(|(n, v)| format!("{n}={v}")).collect();
        let mut line = vec!["apt-get", "-qq", "--print-uris", "download"];
        line.extend(pairs.iter().map(String::as_str));
        let uris = self.run(&line)?;
        let package = |(name, version): (String, String)| {
            let sha256 = hash_of(&uris, &name, &version).ok_or_else(|| {
                Error::config(format_args!("apt has no SHA256 of {name} {version}"))
            })?;
            Ok(Package {
                name,
                version,
                sha256,
            })
        };
        wanted.into_iter().map(package).collect()
    }

    /// The files of `packages`, fetched as far as they are not here.
    pub(super) fn fetch(&self, packages: &[Package]) -> Result<Vec<PathBuf>> {
        let missing: Vec<_> = (packages.iter())
            .filter(|package| !self.file(package).exists())
            .collect();
        if !missing.is_empty() {
            progress(format_args!("fetching {} packages", missing.len()));
        }
        for package in missing {
            self.fetch_one(package)?;
        }
        Ok(packages.iter().map(|package| self.file(package)).collect())
    }

    /// A package's file: only one with the right hash gets this name.
    fn file(&self, package: &Package) -> PathBuf {
        let name = format!("packages/{}.deb", package.sha256);
        self.folder.join(name)
    }

    fn fetch_one(&self, package: &Package) -> Result<()> {
        let name = format!("{}={}", package.name, package.version);
        let folder = self.folder.join("packages");
        let scratch = tempfile::tempdir_in(&folder).map_err(|e| Error::file(&folder, &e))?;
        self.run_in(scratch.path(), &["apt-get", "-qq", "download", &name])
            .map_err(|e| {
                Error::config(format_args!(
                    "{name} cannot be had, --refresh looks for newer: {e}"
                ))
            })?;
        let file = fs::read_dir(scratch.path())
            .map_err(|e| Error::file(scratch.path(), &e))?
            .filter_map(|entry| Some(entry.ok()?.path()))
            .find(|path| path.extension().is_some_and(|e| e == "deb"))
            .ok_or_else(|| Error::config(format_args!("apt-get left no file of {name}")))?;
        let sum = program::output(program::command("sha256sum").arg(&file))?;
        if !sum.starts_with(&package.sha256) {
            return Err(Error::config(format_args!(
                "{name}: its file has another SHA256 than the lock says, --refresh takes it"
            )));
        }
        let path = self.file(package);
        fs::rename(&file, &path).map_err(|e| Error::file(&path, &e))
    }

    /// What apt is to believe to be installed already.
    fn write_status(&self, names: &[String], whole: bool) -> Result<()> {
        let mut text = String::new();
        for name in NOT_NEEDED {
            if !whole && !names.iter().any(|wanted| wanted == name) {
                text += &format!(
                    "Package: {name}\nStatus: install ok installed\nArchitecture: arm64\n\
                     Multi-Arch: allowed\nVersion: 9:99\nMaintainer: nobody\n\
                     Description: not needed\n\n"
                );
            }
        }
        let folder = self.folder.join("apt");
        let path = folder.join("status");
        fs::create_dir_all(folder)
            .and_then(|()| fs::write(&path, text))
            .map_err(|e| Error::file(&path, &e))
    }

    fn run(&self, line: &[&str]) -> Result<String> {
        self.run_in(&self.folder, line)
    }

    fn run_in(&self, folder: &Path, line: &[&str]) -> Result<String> {
        let mut command = Command::new(self.folder.join("private-apt"));
        command.arg(self.folder.join("apt"));
        command.args(["arm64", &self.suite]).args(line);
        program::output(command.current_dir(folder))
    }
}

/// (name, version) of each "Inst NAME (VERSION ...". Source: apt-get(8), --simulate.
fn inst_lines(text: &str) -> Vec<(String, String)> {
    let inst = |line: &str| {
        let (name, rest) = line.strip_prefix("Inst ")?.split_once(" (")?;
        let version = rest.split([' ', ')']).next()?;
        Some((name.to_owned(), version.to_owned()))
    };
    text.lines().filter_map(inst).collect()
}

/// The hash in "'URI' NAME_VERSION_ARCH.deb SIZE SHA256:HASH". Colons in versions are escaped there.
fn hash_of(uris: &str, name: &str, version: &str) -> Option<String> {
    let prefix = format!("{name}_{}_", version.replace(':', "%3a"));
    let hash = |line: &str| {
        let mut words = line.split(' ').skip(1);
        let file = words.next()?;
        let hash = words.nth(1)?.strip_prefix("SHA256:")?;
        file.starts_with(&prefix).then(|| hash.to_owned())
    };
    uris.lines().find_map(hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    #[test]
    fn apt_is_understood() {
        let text = "Inst libc6 (2.41-12 Debian:13/stable [arm64]) []\nConf libc6 (2.41-12)\n\
                    Inst redis-server (5:8.0.2-3 Debian:13/stable [arm64])\n";
        let found = inst_lines(text);
        let redis = ("redis-server".to_owned(), "5:8.0.2-3".to_owned());
        assert_eq!((found.len(), &found[1]), (2, &redis));
        let uris = format!("'http://x/' redis-server_5%3a8.0.2-3_arm64.deb 99 SHA256:{HASH}\n");
        assert_eq!(hash_of(&uris, "redis-server", "5:8.0.2-3").unwrap(), HASH);
        assert_eq!(hash_of(&uris, "redis", "5:8.0.2-3"), None);
    }

    #[test]
    fn a_lock_file_is_read_as_written_and_strictly() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let packages = [Package::parse(&format!("libc6 2.41-12+deb13u5 {HASH}")).unwrap()];
        write_lock(&path, &packages).unwrap();
        assert_eq!(read_lock(&path).unwrap(), packages);
        for bad in [
            "",
            "libc6",
            "libc6 1 abc",
            "-o 1 HASH",
            "lib/c6 1 HASH",
            "a 1 HASH b",
        ] {
            fs::write(&path, format!("{}\n", bad.replace("HASH", HASH))).unwrap();
            let error = read_lock(&path).unwrap_err().to_string();
            assert!(
                error.ends_with("lock:1: must be 'NAME VERSION SHA256'"),
                "{bad}: {error}"
            );
        }
    }
}
