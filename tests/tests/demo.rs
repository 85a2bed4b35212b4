//! What `make demo` shows, with a disk made here: `cloister guest-image`, two VMs on a switch with an uplink, servers in
//! them that the workstation reaches through forwarded ports.

use std::process::Command;
use std::time::{Duration, Instant};
use tests::artifacts::{Artifact, build_dir};
use tests::http::{free_port, get};
use tests::{Machine, Run, VmSpec, image, redis};

/// Asks until there is an answer.
fn answer<T>(run: &Run, what: &str, ask: impl Fn() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(300);
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        run.check(
            Instant::now() < deadline,
            &format!("{what} does not answer"),
        );
        std::thread::sleep(Duration::from_millis(500));
    }
}

#[test]
fn a_workstation_reaches_apache_and_redis_in_two_vms_on_disks_made_for_them() {
    let (web, redis) = (image::path("demo-web"), image::path("demo-redis"));
    let mut make = Command::new(Artifact::Tool.path());
    make.args([
        "guest-image",
        "--service",
        "apache2",
        "--service",
        "redis-server",
    ]);
    make.args(["--size", "384M", "--cache"]);
    make.arg(build_dir().join("guest/packages"))
        .arg("-o")
        .arg(&web);
    let made = make.output().expect("cloister guest-image");
    assert!(made.status.success(), "{made:?}");
    image::copy(&web, &redis);
    assert_eq!(image::damage(&web), None);

    let (http, resp) = (free_port(), free_port());
    let vm = |name: &str, disk| {
        VmSpec::debian(name, Artifact::Kernel612, "never")
            .append("quiet root=/dev/vda")
            .open()
            .disk(disk)
            .net("lan", "uplink = true")
    };
    let mut run = Machine::new()
        .interactive()
        .timeout(600)
        .vm(vm("web", &web).vcpus(2))
        .vm(vm("redis", &redis))
        .tool_arg(&format!("--forward={http}:web:80"))
        .tool_arg(&format!("--forward={resp}:redis:6379"))
        .start();
    let page = answer(&run, "Apache", || get(http, ""));
    run.check(!page.is_empty(), "an empty page");
    let count = answer(&run, "Redis", || redis::increment(resp, "asked"));
    run.check(count != 0, "a counter that was counted up is 0");
    // Its shell has the console by then.
    run.expect("guest: web is up");
    run.detach();
    run.shutdown();
    for disk in [&web, &redis] {
        assert_eq!(image::damage(disk), None, "{}", disk.display());
    }
}
