//! The folder that becomes a guest's root, and the image made of it.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::program;
use super::services::Service;
use crate::error::{Error, Result};
use crate::size::Size;

/// Debian's merged /usr: packages expect these links, and none of them has them.
const USR_MERGE: [&str; 3] = ["bin", "lib", "sbin"];

/// Folders that no package brings.
const FOLDERS: [&str; 8] = [
    "dev", "proc", "root", "run", "sys", "tmp", "var/lib", "var/log",
];

/// (path in the image, contents, mode)
const FILES: [(&str, &str, u32); 7] = [
    (
        "usr/sbin/init",
        include_str!("../../../../guest/image/init"),
        0o755,
    ),
    (
        "usr/lib/cloister/lib.sh",
        include_str!("../../../../guest/lib.sh"),
        0o644,
    ),
    (
        "usr/lib/cloister/udhcpc",
        include_str!("../../../../guest/udhcpc"),
        0o755,
    ),
    ("etc/passwd", PASSWD, 0o644),
    ("etc/group", GROUP, 0o644),
    ("etc/hosts", "127.0.0.1 localhost\n", 0o644),
    (
        "etc/nsswitch.conf",
        "passwd: files\ngroup: files\nhosts: files dns\n",
        0o644,
    ),
];

// Debian's numbers; base-passwd's installation would write them.
const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\n\
                      www-data:x:33:33:www-data:/srv/www:/usr/sbin/nologin\n\
                      nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n";
const GROUP: &str = "root:x:0:\nwww-data:x:33:\nnogroup:x:65534:\n";

/// A guest's root in the making.
pub(super) struct Root(PathBuf);

impl Root {
    /// An empty one in `folder`.
    pub(super) fn new(folder: &Path) -> Result<Self> {
        // A temporary folder is its owner's alone; a root is everybody's.
        fs::set_permissions(folder, fs::Permissions::from_mode(0o755))
            .map_err(|e| Error::file(folder, &e))?;
        let root = Self(folder.to_owned());
        for name in USR_MERGE {
            let target = format!("usr/{name}");
            root.folder(&target)?;
            root.link(&target, name)?;
        }
        FOLDERS.iter().try_for_each(|name| root.folder(name))?;
        Ok(root)
    }

    /// Unpacks a package, without its installation scripts and what matches one of the patterns `leave_out`.
    pub(super) fn unpack(&self, package: &Path, leave_out: &[String]) -> Result<()> {
        let io = |e: std::io::Error| Error::file(package, &e);
        let mut from = program::command("dpkg-deb")
            .arg("--fsys-tarfile")
            .arg(package)
            .stdout(Stdio::piped())
            .spawn()
            .map_err(io)?;
        let mut tar = program::command("tar");
        tar.args(["-x", "--keep-directory-symlink", "--no-same-owner", "-C"]);
        tar.arg(&self.0);
        // In one word each: none is taken for an option.
        tar.args(leave_out.iter().map(|name| format!("--exclude={name}")));
        if let Some(stdout) = from.stdout.take() {
            tar.stdin(stdout);
        }
        let to = tar.status().map_err(io)?;
        let from = from.wait().map_err(io)?;
        if to.success() && from.success() {
            return Ok(());
        }
        let package = package.display();
        Err(Error::config(format_args!("{package}: cannot be unpacked")))
    }

    /// Our own files, after all packages.
    pub(super) fn finish(&self, services: &[&Service]) -> Result<()> {
        for (path, text, mode) in FILES {
            self.file(path, text, mode)?;
        }
        for service in services {
            if let Some(script) = service.script {
                let path = format!("etc/cloister/services/{}", service.name);
                self.file(&path, script, 0o755)?;
            }
            for (path, text) in service.files {
                self.file(path, text, 0o644)?;
            }
        }
        if !self.0.join("usr/bin/sh").exists() {
            self.link("busybox", "usr/bin/sh")?;
        }
        self.link("/run/resolv.conf", "etc/resolv.conf")
    }

    /// Copies a file or folder of the workstation.
    pub(super) fn copy(&self, from: &Path, to: &str) -> Result<()> {
        let to = self.0.join(to.trim_start_matches('/'));
        if let Some(parent) = to.parent() {
            fs::create_dir_all(parent).map_err(|e| Error::file(parent, &e))?;
        }
        let mut command = Command::new("cp");
        command.args(["-r", "-T", "--preserve=mode,timestamps,links", "--"]);
        program::output(command.arg(from).arg(to)).map(drop)
    }

    /// Makes an ext4 image of `size` bytes.
    pub(super) fn ext4(&self, image: &Path, size: Size) -> Result<()> {
        // A file that is there may be larger, and its blocks hold old data.
        let _ = fs::remove_file(image);
        let mut command = program::command("mke2fs");
        command.args(["-q", "-F", "-t", "ext4", "-m", "0"]);
        command.args([
            "-E",
            "root_owner=0:0,lazy_itable_init=0,lazy_journal_init=0",
        ]);
        command.arg("-d").arg(&self.0);
        command.arg(image).arg(format!("{}k", size.0 >> 10));
        program::output(&mut command)?;
        self.give_to_root(image)
    }

    /// Makes an initramfs: the same files give the same bytes.
    pub(super) fn initramfs(&self, image: &Path) -> Result<()> {
        const SCRIPT: &str = "set -e; cd \"$1\"; find . -exec touch -h -d @0 {} +
            find . -mindepth 1 | LC_ALL=C sort >\"$3\"
            cpio --quiet --create --format=newc --owner=0:0 --reproducible <\"$3\" >\"$2.cpio\"
            gzip -n -9 <\"$2.cpio\" >\"$2\"; rm \"$2.cpio\"";
        self.link("usr/sbin/init", "init")?;
        let image = std::path::absolute(image).map_err(|e| Error::file(image, &e))?;
        let list = tempfile::NamedTempFile::new().map_err(|e| Error::file(&image, &e))?;
        let mut command = Command::new("sh");
        command.args(["-c", SCRIPT, "sh"]).arg(&self.0);
        program::output(command.arg(image).arg(list.path())).map(drop)
    }

    /// Files that an ordinary user unpacked are the user's; in the image they are root's.
    fn give_to_root(&self, image: &Path) -> Result<()> {
        if rustix::process::geteuid().is_root() {
            return Ok(());
        }
        let mut script = String::new();
        list(&self.0, Path::new("/"), &mut |path| {
            let path = path.display();
            script += &format!("sif \"{path}\" uid 0\nsif \"{path}\" gid 0\n");
        })?;
        let file = tempfile::NamedTempFile::new().map_err(|e| Error::file(image, &e))?;
        fs::write(file.path(), script).map_err(|e| Error::file(file.path(), &e))?;
        let mut command = program::command("debugfs");
        command.args(["-w", "-f"]).arg(file.path()).arg(image);
        program::output(&mut command).map(drop)
    }

    fn folder(&self, path: &str) -> Result<()> {
        let path = self.0.join(path);
        fs::create_dir_all(&path).map_err(|e| Error::file(&path, &e))
    }

    fn link(&self, target: &str, path: &str) -> Result<()> {
        let path = self.0.join(path);
        let _ = fs::remove_file(&path);
        symlink(target, &path).map_err(|e| Error::file(&path, &e))
    }

    fn file(&self, path: &str, text: &str, mode: u32) -> Result<()> {
        let path = self.0.join(path);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(|e| Error::file(parent, &e))?;
        }
        // Not through a link that a package has there.
        let _ = fs::remove_file(&path);
        fs::write(&path, text)
            .and_then(|()| fs::set_permissions(&path, fs::Permissions::from_mode(mode)))
            .map_err(|e| Error::file(&path, &e))
    }
}

/// Every file below `folder`, as it is called in the image, below `inside`.
fn list(folder: &Path, inside: &Path, take: &mut dyn FnMut(&Path)) -> Result<()> {
    for entry in fs::read_dir(folder).map_err(|e| Error::file(folder, &e))? {
        let entry = entry.map_err(|e| Error::file(folder, &e))?;
        let path = inside.join(entry.file_name());
        take(&path);
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            list(&entry.path(), &path, take)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guest_image::services::SERVICES;

    #[test]
    fn a_root_has_links_programs_and_services_in_their_places() {
        let folder = tempfile::tempdir().unwrap();
        let root = Root::new(folder.path()).unwrap();
        let services: Vec<_> = SERVICES.iter().collect();
        root.finish(&services).unwrap();
        for name in [
            "sbin/init",
            "bin/sh",
            "etc/cloister/services/redis-server",
            "srv/www/index.html",
        ] {
            let path = folder.path().join(name);
            assert!(path.symlink_metadata().is_ok(), "{name}");
        }
        let init = fs::metadata(folder.path().join("sbin/init")).unwrap();
        assert_eq!(init.permissions().mode() & 0o777, 0o755);
    }

    #[test]
    fn what_is_left_out_of_a_package_is_not_unpacked() {
        let folder = tempfile::tempdir().unwrap();
        let (tree, package) = (folder.path().join("tree"), folder.path().join("p.deb"));
        for (name, text) in [
            (
                "DEBIAN/control",
                "Package: p\nVersion: 1\nArchitecture: all\nMaintainer: p\nDescription: p\n",
            ),
            ("usr/lib/aarch64-linux-gnu/gconv/BIG5.so", ""),
            ("usr/lib/aarch64-linux-gnu/libc.so.6", ""),
            ("usr/share/doc/p/copyright", ""),
            ("usr/share/docs", ""),
        ] {
            let path = tree.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let mut build = program::command("dpkg-deb");
        build
            .args(["--root-owner-group", "--build"])
            .arg(&tree)
            .arg(&package);
        program::output(&mut build).unwrap();
        let root = folder.path().join("root");
        fs::create_dir(&root).unwrap();
        let root = Root::new(&root).unwrap();
        let patterns = ["usr/lib/*/gconv", "usr/share/doc", "--checkpoint-action=x"];
        root.unpack(&package, &patterns.map(str::to_owned)).unwrap();
        let has = |name: &str| root.0.join(name).exists();
        assert!(has("lib/aarch64-linux-gnu/libc.so.6") && has("usr/share/docs"));
        assert!(!has("lib/aarch64-linux-gnu/gconv") && !has("usr/share/doc"));
        root.unpack(&package, &[]).unwrap();
        assert!(has("lib/aarch64-linux-gnu/gconv/BIG5.so") && has("usr/share/doc/p/copyright"));
    }
}
