//! The services that an image can start, and the packages and files they need.

/// A service.
#[derive(Debug)]
pub(super) struct Service {
    /// As the user names it.
    pub(super) name: &'static str,
    /// Debian packages.
    pub(super) packages: &'static [&'static str],
    /// The script that runs it in the foreground; none for mere programs.
    pub(super) script: Option<&'static str>,
    /// Further files: (path in the image, contents).
    pub(super) files: &'static [(&'static str, &'static str)],
}

/// What a service's folder has.
macro_rules! service_file {
    ($name:literal) => {
        include_str!(concat!("../../../../guest/image/services/", $name))
    };
}

/// All services.
pub(super) const SERVICES: [Service; 8] = [
    Service {
        name: "apache2",
        packages: &["apache2-bin", "media-types"],
        script: Some(service_file!("apache2")),
        files: &[
            ("etc/apache2/cloister.conf", service_file!("apache2.conf")),
            (
                "srv/www/index.html",
                "<!doctype html><title>Cloister</title><p>Served by a VM.</p>\n",
            ),
        ],
    },
    Service {
        name: "redis-server",
        packages: &["redis-server"],
        script: Some(service_file!("redis-server")),
        files: &[],
    },
    Service {
        name: "memcached",
        packages: &["memcached"],
        script: Some(service_file!("memcached")),
        files: &[],
    },
    Service {
        name: "iperf3",
        packages: &["iperf3"],
        script: Some(service_file!("iperf3")),
        files: &[],
    },
    Service {
        name: "hackbench",
        packages: &["rt-tests"],
        script: None,
        files: &[],
    },
    Service {
        name: "ab",
        packages: &["apache2-utils"],
        script: None,
        files: &[],
    },
    Service {
        name: "memcslap",
        packages: &["libmemcached-tools"],
        script: None,
        files: &[],
    },
    Service {
        name: "cc1",
        packages: &["cpp-14", "binutils"],
        script: None,
        files: &[],
    },
];

/// Packages of every image.
pub(super) const BASE: [&str; 3] = ["busybox-static", "base-files", "netbase"];

/// Packages that are needed to compile a kernel.
pub(super) const COMPILER: [&str; 7] = [
    "gcc",
    "make",
    "libc6-dev",
    "bc",
    "bison",
    "flex",
    "binutils",
];

/// Packages on which services depend for their installation scripts alone, which nobody runs here.
pub(super) const NOT_NEEDED: [&str; 17] = [
    "adduser",
    "base-passwd",
    "debconf",
    "dpkg",
    "init-system-helpers",
    "login.defs",
    "lsb-base",
    "mawk",
    "passwd",
    "perl",
    "perl-base",
    "python3",
    "python3-minimal",
    "sysvinit-utils",
    "tar",
    "tzdata",
    "ucf",
];

/// The service called `name`.
pub(super) fn find(name: &str) -> Option<&'static Service> {
    SERVICES.iter().find(|service| service.name == name)
}
