use super::*;
use std::os::unix::fs::PermissionsExt;

fn image(path: &Path, read_only: bool) -> Image {
    Image {
        path: path.to_owned(),
        serial: "web".to_owned(),
        read_only,
        at: "web.toml:5".to_owned(),
    }
}

fn refusal(path: &Path, read_only: bool) -> String {
    let error = check(&image(path, read_only)).unwrap_err().to_string();
    let prefix = format!("web.toml:5: image {}: ", path.display());
    error.strip_prefix(&prefix).unwrap().to_owned()
}

#[test]
fn an_image_is_a_file_of_whole_sectors() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("web.img");
    assert_eq!(refusal(&path, true), "No such file or directory");
    assert_eq!(refusal(folder.path(), true), "not a file");
    for (size, says) in [
        (0, "the file is empty"),
        (511, "511 bytes are not a multiple of 512"),
        (1025, "1025 bytes are not a multiple of 512"),
    ] {
        fs::write(&path, vec![0; size]).unwrap();
        assert_eq!(refusal(&path, false), says);
    }
    fs::write(&path, [0; 1024]).unwrap();
    assert!(check(&image(&path, false)).is_ok());
}

#[test]
fn a_read_only_file_is_no_disk_to_write_to() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("web.img");
    fs::write(&path, [0; 512]).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o444)).unwrap();
    assert_eq!(
        refusal(&path, false),
        "the file is read-only (read-only = true is missing)"
    );
    assert!(check(&image(&path, true)).is_ok());
}

/// Locks a byte as QEMU does for each permission it has or denies others.
fn lock(file: &File, byte: i64) {
    let lock = libc::flock {
        l_type: libc::F_RDLCK as i16,
        l_whence: libc::SEEK_SET as i16,
        l_start: byte,
        l_len: 1,
        l_pid: 0,
    };
    fcntl(file, FcntlArg::F_OFD_SETLK(&lock)).unwrap();
}

#[test]
fn an_image_that_another_qemu_has_is_refused_unless_both_only_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("web.img");
    fs::write(&path, [0; 512]).unwrap();
    {
        // A reader: holds "read" (bit 0), denies "write" (bit 1).
        let reader = File::open(&path).unwrap();
        lock(&reader, 100);
        lock(&reader, 201);
        assert_eq!(
            refusal(&path, false),
            "another program uses it (a QEMU that runs?)"
        );
        assert!(check(&image(&path, true)).is_ok());
    }
    let writer = File::open(&path).unwrap();
    for byte in [100, 101, 201] {
        lock(&writer, byte);
    }
    assert_eq!(
        refusal(&path, false),
        "another program uses it (a QEMU that runs?)"
    );
    assert_eq!(
        refusal(&path, true),
        "another program writes to it (a QEMU that runs?)"
    );
    drop(writer);
    assert!(check(&image(&path, false)).is_ok());
}

#[test]
fn disks_of_the_command_line_have_a_serial_and_a_file() {
    let disk: DiskArg = "web=a=b,c.img,ro".parse().unwrap();
    assert_eq!((disk.serial.as_str(), disk.read_only), ("web", true));
    assert_eq!(disk.path, Path::new("a=b,c.img"));
    assert!(!"web=a.img".parse::<DiskArg>().unwrap().read_only);
    for bad in [
        "a.img",
        "=a.img",
        "a b=a.img",
        "a23456789012345678901=a.img",
    ] {
        assert!(bad.parse::<DiskArg>().is_err(), "{bad}");
    }
}

#[test]
fn two_disks_of_one_serial_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("web.img");
    fs::write(&path, [0; 512]).unwrap();
    let more = format!("web={}", path.display()).parse().unwrap();
    let error = machine(vec![image(&path, false)], &[more]).unwrap_err();
    assert_eq!(error.to_string(), "--disk: two disks have the serial 'web'");
}

#[test]
fn one_file_is_one_disk_unless_nobody_writes_to_it() {
    let folder = tempfile::tempdir().unwrap();
    let (path, link) = (folder.path().join("web.img"), folder.path().join("link"));
    fs::write(&path, [0; 512]).unwrap();
    std::os::unix::fs::symlink(&path, &link).unwrap();
    let more =
        |text: &str| -> DiskArg { format!("data={}{text}", link.display()).parse().unwrap() };
    for (read_only, text, fine) in [
        (false, "", false),
        (true, "", false),
        (false, ",ro", false),
        (true, ",ro", true),
    ] {
        let disks = machine(vec![image(&path, read_only)], &[more(text)]);
        assert_eq!(disks.is_ok(), fine, "{read_only} {text}");
    }
    let error = machine(vec![image(&path, false)], &[more("")]).unwrap_err();
    let text = error.to_string();
    assert!(text.contains("is disk 'web' already"), "{text}");
}
