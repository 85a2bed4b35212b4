//! `cloister guest-image`: makes a disk image or an initramfs of an arm64 Debian with chosen packages and
//! services, as an ordinary user. Packages are unpacked, not installed: a first program of our own
//! (`guest/image/init`) takes the place of Debian's init.

mod packages;
mod program;
mod root;
mod services;

use std::fs;
use std::path::{Path, PathBuf};

use clap::Args;

use crate::error::{Error, Result};
use crate::progress;
use crate::size::Size;
use packages::Archive;
use root::Root;
use services::{BASE, COMPILER, SERVICES, Service};

/// Make a disk image of an arm64 Debian with chosen packages and services
#[derive(Args, Debug)]
pub(crate) struct ImageArgs {
    /// A service that the guest starts: apache2, redis-server, memcached, iperf3 (or hackbench, ab, memcslap,
    /// cc1: the program alone); may be repeated
    #[arg(long, value_name = "NAME")]
    service: Vec<String>,

    /// A Debian package with all it depends on; may be repeated
    #[arg(long, value_name = "NAME")]
    package: Vec<String>,

    /// Files and folders of packages that the guest does not have: a pattern of tar's, such as usr/share/doc; may be
    /// repeated
    #[arg(long, value_name = "PATTERN")]
    leave_out: Vec<String>,

    /// A file or folder of the workstation that the guest has, too; may be repeated
    #[arg(long, value_name = "FROM:TO")]
    copy: Vec<String>,

    /// A kernel's source, at /usr/src/linux, and what compiles it
    #[arg(long, value_name = "FOLDER")]
    kernel_tree: Option<PathBuf>,

    /// Size of the disk
    #[arg(long, value_name = "SIZE", default_value = "1G")]
    size: Size,

    /// Make an initramfs (cpio, gzip) instead of a disk
    #[arg(long)]
    initramfs: bool,

    /// Kernel modules for an initramfs: a folder with a folder for each release; may be repeated
    #[arg(long, value_name = "FOLDER", requires = "initramfs")]
    modules: Vec<PathBuf>,

    /// The suite of the Debian archive
    #[arg(long, value_name = "NAME", default_value = "trixie")]
    suite: String,

    /// Where package lists and packages are kept [default: ~/.cache/cloister]
    #[arg(long, value_name = "FOLDER")]
    cache: Option<PathBuf>,

    /// A file of "NAME VERSION SHA256" lines: taken as it is if it is there, written if it is not
    #[arg(long, value_name = "FILE")]
    lock: Option<PathBuf>,

    /// Fetch new package lists, and write the lock file anew
    #[arg(long)]
    refresh: bool,

    /// The image's file
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
}

/// Carries out `cloister guest-image`.
pub(crate) fn run(args: &ImageArgs) -> Result<()> {
    let services = chosen(&args.service)?;
    let copies: Vec<_> = (args.copy.iter())
        .map(|text| copy(text))
        .collect::<Result<_>>()?;
    check_names(args)?;
    check_size(args.size)?;
    for folder in args.kernel_tree.iter().chain(&args.modules) {
        if !folder.is_dir() {
            let folder = folder.display();
            return Err(Error::config(format_args!("{folder}: no such folder")));
        }
    }
    program::check()?;
    let archive = Archive::open(&cache(args)?, &args.suite, args.refresh)?;
    let locked = args
        .lock
        .as_deref()
        .filter(|lock| lock.exists() && !args.refresh);
    let packages = match locked {
        Some(lock) => packages::read_lock(lock)?,
        None => {
            let whole = !args.package.is_empty() || args.kernel_tree.is_some();
            archive.closure(&names(args, &services), whole)?
        }
    };
    let files = archive.fetch(&packages)?;
    if let Some(lock) = &args.lock {
        packages::write_lock(lock, &packages)?;
    }

    let folder = tempfile::tempdir().map_err(|e| Error::file(&std::env::temp_dir(), &e))?;
    let root = Root::new(folder.path())?;
    files
        .iter()
        .try_for_each(|file| root.unpack(file, &args.leave_out))?;
    root.finish(&services)?;
    for (from, to) in &copies {
        root.copy(from, to)?;
    }
    if let Some(tree) = &args.kernel_tree {
        root.copy(tree, "usr/src/linux")?;
    }
    for folder in &args.modules {
        root.copy(folder, "usr/lib/modules")?;
    }
    // What has the image's name is whole, at any time.
    let unfinished = with_suffix(&args.output, ".new");
    if args.initramfs {
        root.initramfs(&unfinished)?;
    } else {
        root.ext4(&unfinished, args.size)?;
    }
    fs::rename(&unfinished, &args.output).map_err(|e| Error::file(&args.output, &e))?;
    progress(format_args!(
        "{}: {} packages",
        args.output.display(),
        packages.len()
    ));
    Ok(())
}

fn chosen(names: &[String]) -> Result<Vec<&'static Service>> {
    let find = |name: &String| {
        services::find(name).ok_or_else(|| {
            let known: Vec<_> = SERVICES.iter().map(|service| service.name).collect();
            let known = known.join(", ");
            Error::config(format_args!("--service {name}: unknown, there are {known}"))
        })
    };
    names.iter().map(find).collect()
}

/// "FROM:TO"
fn copy(text: &str) -> Result<(PathBuf, &str)> {
    let refuse = |reason| Error::config(format_args!("--copy {text}: {reason}"));
    let (from, to) = text
        .rsplit_once(':')
        .ok_or_else(|| refuse("must be FROM:TO"))?;
    if !to.starts_with('/') || to.split('/').any(|part| part == "..") {
        return Err(refuse("TO must be an absolute path in the guest"));
    }
    let from = PathBuf::from(from);
    if !from.exists() {
        return Err(refuse("FROM does not exist"));
    }
    Ok((from, to))
}

/// Packages and suite become arguments of apt-get: nothing that it could take for an option.
fn check_names(args: &ImageArgs) -> Result<()> {
    let plain = |text: &&String| {
        text.starts_with(|c: char| c.is_ascii_alphanumeric())
            && text
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b))
    };
    match args
        .package
        .iter()
        .chain([&args.suite])
        .find(|text| !plain(text))
    {
        None => Ok(()),
        Some(bad) => Err(Error::config(format_args!("'{bad}' is no name in Debian"))),
    }
}

fn check_size(size: Size) -> Result<()> {
    const MIN: u64 = 16 << 20;
    const MAX: u64 = 64 << 30;
    if (MIN..=MAX).contains(&size.0) && size.0.is_multiple_of(1 << 20) {
        return Ok(());
    }
    let (min, max) = (Size(MIN), Size(MAX));
    Err(Error::config(format_args!(
        "--size {size}: must be a multiple of 1M from {min} to {max}"
    )))
}

fn names(args: &ImageArgs, services: &[&Service]) -> Vec<String> {
    let of_services = services.iter().flat_map(|service| service.packages);
    let compiler = COMPILER.iter().filter(|_| args.kernel_tree.is_some());
    let ours = BASE.iter().chain(of_services).chain(compiler);
    let mut names: Vec<String> = ours.map(|name| (*name).to_owned()).collect();
    names.extend(args.package.iter().cloned());
    names
}

fn cache(args: &ImageArgs) -> Result<PathBuf> {
    if let Some(folder) = &args.cache {
        return Ok(folder.clone());
    }
    let variable = |name| {
        Some(PathBuf::from(
            std::env::var_os(name).filter(|v| !v.is_empty())?,
        ))
    };
    variable("XDG_CACHE_HOME")
        .or_else(|| Some(variable("HOME")?.join(".cache")))
        .map(|folder| folder.join("cloister"))
        .ok_or_else(|| Error::config("guest-image: no HOME, name a folder with --cache"))
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_is_refused_before_anything_is_fetched() {
        let error = chosen(&["nginx".to_owned()]).unwrap_err().to_string();
        assert_eq!(
            error,
            "--service nginx: unknown, there are apache2, redis-server, memcached, iperf3, hackbench, ab, memcslap, cc1"
        );
        for (text, reason) in [
            ("a", "must be FROM:TO"),
            ("/:b", "TO must be an absolute path in the guest"),
            ("/:/a/../../b", "TO must be an absolute path in the guest"),
            ("/no-such-file:/b", "FROM does not exist"),
        ] {
            let error = copy(text).unwrap_err().to_string();
            assert_eq!(error, format!("--copy {text}: {reason}"));
        }
        for bad in [0, 1 << 20, (16 << 20) + 512, 65 << 30] {
            let error = check_size(Size(bad)).unwrap_err().to_string();
            assert!(
                error.ends_with("must be a multiple of 1M from 16M to 64G"),
                "{error}"
            );
        }
    }
}
