//! The workloads, as `bench/guest/workloads` has them.

/// One workload.
#[derive(Debug)]
pub(super) struct Workload {
    /// Its name in the guest, on command lines and in files.
    pub(super) name: &'static str,
    /// What it is, for the report.
    pub(super) title: &'static str,
    /// The image that has it, if there is one VM.
    image: &'static str,
    /// A smaller one that has it, for several VMs of less memory.
    small: &'static str,
    /// Debian's packages of its programs, whose versions the report gives.
    pub(super) packages: &'static [&'static str],
    /// Its program that no package has, and the user supplies: `/bench/NAME` in the guest.
    pub(super) program: Option<&'static str>,
    /// Whether its server is in one VM and its client in a second one, on one virtual network.
    pub(super) pair: bool,
}

const fn workload(
    name: &'static str,
    title: &'static str,
    [image, small]: [&'static str; 2],
    packages: &'static [&'static str],
) -> Workload {
    Workload {
        name,
        title,
        image,
        small,
        packages,
        program: None,
        pair: false,
    }
}

/// One whose client is in a second VM. All of them are in one image.
const fn pair(
    name: &'static str,
    title: &'static str,
    packages: &'static [&'static str],
) -> Workload {
    Workload {
        pair: true,
        ..workload(name, title, [APPS; 2], packages)
    }
}

/// One whose server the user supplies.
const fn supplied(name: &'static str, title: &'static str, program: &'static str) -> Workload {
    Workload {
        program: Some(program),
        ..workload(name, title, [MONGODB; 2], &[])
    }
}

/// The image of those.
pub(super) const MONGODB: &str = "mongodb";

impl Workload {
    /// The image for as many VMs: `build/bench/images/IMAGE.cpio`, which `bench/fetch` makes.
    pub(super) fn image(&self, vms: u32) -> &'static str {
        match vms {
            1 => self.image,
            _ => self.small,
        }
    }
}

/// The image of most of them.
pub(super) const APPS: &str = "apps";

const APACHE: &[&str] = &["apache2-bin", "apache2-utils"];
const REDIS: &[&str] = &["redis-server", "redis-tools"];
const MEMCACHED: &[&str] = &["memcached", "libmemcached-tools"];
const IPERF3: &[&str] = &["iperf3"];

/// In the order of the report.
pub(super) static WORKLOADS: &[Workload] = &[
    workload(
        "hackbench",
        "hackbench, 5 groups",
        [APPS, "hackbench"],
        &["rt-tests"],
    ),
    workload(
        "kernbench",
        "kernbench, 2 objects",
        ["kernbench"; 2],
        &["cpp-14", "binutils"],
    ),
    workload("apache", "Apache, ab, 41 KB", [APPS, "apache"], APACHE),
    workload(
        "apache-tls",
        "Apache, ab, 41 KB, TLS",
        [APPS, "apache"],
        APACHE,
    ),
    workload("redis", "Redis, redis-benchmark", [APPS, "redis"], REDIS),
    workload(
        "memcached",
        "memcached, memcslap",
        [APPS, "memcached"],
        MEMCACHED,
    ),
    workload("iperf3", "iperf3, one stream", [APPS, "iperf3"], IPERF3),
    supplied("mongodb", "MongoDB, YCSB-A", "mongod"),
    // Never called MongoDB: see workloads/secantusdb.
    supplied(
        "secantusdb",
        "MongoDB-protocol server on WiredTiger (SecantusDB), YCSB-A",
        "secantusd",
    ),
    pair("apache-net", "Apache, ab, 41 KB", APACHE),
    pair("redis-net", "Redis, redis-benchmark", REDIS),
    pair("memcached-net", "memcached, memcslap", MEMCACHED),
    pair("iperf3-net", "iperf3, one stream", IPERF3),
];

/// The workload called `name`.
pub(super) fn find(name: &str) -> Option<&'static Workload> {
    WORKLOADS.iter().find(|workload| workload.name == name)
}
