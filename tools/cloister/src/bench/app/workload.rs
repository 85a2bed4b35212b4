//! The workloads, as `bench/guest/workloads` has them.

/// One workload.
#[derive(Debug)]
pub(super) struct Workload {
    /// Its name in the guest, on command lines and in files.
    pub(super) name: &'static str,
    /// What it is, for the report.
    pub(super) title: &'static str,
    /// The image that has it: `build/bench/images/IMAGE.cpio`, which `bench/fetch` makes.
    pub(super) image: &'static str,
    /// Debian's packages of its programs, whose versions the report gives.
    pub(super) packages: &'static [&'static str],
    /// Its program that no package has, and the user supplies: `/bench/NAME` in the guest.
    pub(super) program: Option<&'static str>,
}

const fn workload(
    name: &'static str,
    title: &'static str,
    image: &'static str,
    packages: &'static [&'static str],
) -> Workload {
    Workload {
        name,
        title,
        image,
        packages,
        program: None,
    }
}

/// One whose server the user supplies.
const fn supplied(name: &'static str, title: &'static str, program: &'static str) -> Workload {
    Workload {
        program: Some(program),
        ..workload(name, title, MONGODB, &[])
    }
}

/// The image of those.
pub(super) const MONGODB: &str = "mongodb";

const APACHE: &[&str] = &["apache2-bin", "apache2-utils"];

/// In the order of the report.
pub(super) static WORKLOADS: &[Workload] = &[
    workload("hackbench", "hackbench, 5 groups", "apps", &["rt-tests"]),
    workload(
        "kernbench",
        "kernbench, 2 objects",
        "kernbench",
        &["cpp-14", "binutils"],
    ),
    workload("apache", "Apache, ab, 41 KB", "apps", APACHE),
    workload("apache-tls", "Apache, ab, 41 KB, TLS", "apps", APACHE),
    workload(
        "redis",
        "Redis, redis-benchmark",
        "apps",
        &["redis-server", "redis-tools"],
    ),
    workload(
        "memcached",
        "memcached, memcslap",
        "apps",
        &["memcached", "libmemcached-tools"],
    ),
    workload("iperf3", "iperf3, one stream", "apps", &["iperf3"]),
    supplied("mongodb", "MongoDB, YCSB-A", "mongod"),
    // Never called MongoDB: see workloads/secantusdb.
    supplied(
        "secantusdb",
        "MongoDB-protocol server on WiredTiger (SecantusDB), YCSB-A",
        "secantusd",
    ),
];

/// The workload called `name`.
pub(super) fn find(name: &str) -> Option<&'static Workload> {
    WORKLOADS.iter().find(|workload| workload.name == name)
}
