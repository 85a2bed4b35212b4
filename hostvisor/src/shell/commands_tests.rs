use super::*;
use crate::log::{HostLog, Kind};
use crate::net::switch::PortStat;
use crate::scan::Scan;
use crate::shell::manage::{
    Before, CpuStat, DiskStat, Fault, MemoryStat, SwitchStat, Usage, VmStat, VmState, VmUsage,
};
use crate::virtio::bus::DeviceStat;
use alloc::vec::Vec;
use proptest::prelude::*;

/// A machine with three VMs that remembers what it was told.
#[derive(Default)]
struct Fake {
    told: Vec<String>,
}

impl Fake {
    fn tell(&mut self, what: &str, name: &str) -> Result<(), ManageError> {
        self.told.push(alloc::format!("{what} {name}"));
        match (what, name) {
            ("start", "web") => Err(ManageError::BadState {
                name: name.into(),
                state: VmState::Running,
            }),
            ("start", "vm02") => Err(ManageError::Other("vm02: kernel: cut off".into())),
            _ => Ok(()),
        }
    }
}

impl Manage for Fake {
    fn frequency(&self) -> u64 {
        1000
    }

    fn list(&self) -> Vec<VmSummary> {
        let vm = |name: &str, state, vcpus, memory, protected, uptime_ticks| VmSummary {
            name: name.into(),
            state,
            vcpus,
            memory,
            protected,
            uptime_ticks,
        };
        vec![
            vm("web", VmState::Running, 2, 256 << 20, true, Some(3_723_999)),
            vm("database", VmState::Stopped, 16, 63 << 30, false, None),
            vm("vm02", VmState::Broken, 0, 0, false, None),
        ]
    }

    fn stat(&mut self, name: &str) -> Result<VmStat, ManageError> {
        let summary = self.list().into_iter().find(|vm| vm.name == name).unwrap();
        let device = |counters: [u64; 2]| DeviceStat {
            name: "net0".into(),
            counters: vec![
                ("packets sent", counters[0]),
                ("packets received", counters[1]),
            ],
            violations: 1,
        };
        let before = (summary.state == VmState::Running).then(|| Before {
            ticks: 2500,
            devices: vec![device([57, 3])],
        });
        Ok(VmStat {
            summary,
            starts: 3,
            weight: 300,
            affinity: "0,2".into(),
            run_ticks: vec![1500, 250],
            wait_ticks: vec![0, 3250],
            exits: core::array::from_fn(|i| i as u64 + 1),
            core: [100, 200, 300, 400],
            devices: vec![device([1307, 5])],
            before,
            end: Some("powered off".into()),
        })
    }

    fn start(&mut self, name: &str) -> Result<(), ManageError> {
        self.tell("start", name)
    }

    fn stop(&mut self, name: &str) -> Result<(), ManageError> {
        self.tell("stop", name)
    }

    fn restart(&mut self, name: &str) -> Result<(), ManageError> {
        self.tell("restart", name)
    }

    fn destroy(&mut self, name: &str) -> Result<(), ManageError> {
        self.tell("destroy", name)
    }

    fn set_weight(&mut self, name: &str, weight: u32) -> Result<(), ManageError> {
        self.tell(&alloc::format!("weight {weight}"), name)
    }

    fn usage(&mut self) -> Usage {
        let vm = |name: &str, vcpus, weight, run_ticks, wait_ticks, exits| VmUsage {
            name: name.into(),
            vcpus,
            weight,
            run_ticks,
            wait_ticks,
            exits,
        };
        Usage {
            ticks: 2000,
            vms: vec![
                vm("web", 2, 100, 3001, 0, 50),
                vm("batch-job", 16, 1, 7, 1993, 0),
            ],
        }
    }

    fn memory(&self) -> MemoryStat {
        MemoryStat {
            ram: 2 << 30,
            core: 10 << 20,
            free: 1 << 30,
            free_frames: 1 << 18,
            pool_frames: 77,
            ..MemoryStat::default()
        }
    }

    fn cpus(&self) -> Vec<CpuStat> {
        let cpu = |index, busy_ticks, idle_ticks| CpuStat {
            index,
            mpidr: index as u64,
            busy_ticks,
            idle_ticks,
            queue: 1,
        };
        vec![cpu(0, 250, 750), cpu(1, 0, 0)]
    }

    fn disks(&self) -> Vec<DiskStat> {
        vec![
            DiskStat {
                name: "root-1".into(),
                bytes: 1 << 30,
                requests: 12,
                read: 3 << 20,
                partitions: vec![("ro\x1b[2Jot".into(), 512 << 20)],
                ..DiskStat::default()
            },
            DiskStat {
                name: "virtio-mmio@a003e00".into(),
                read_only: true,
                dead: true,
                ..DiskStat::default()
            },
        ]
    }

    fn switches(&self) -> Vec<SwitchStat> {
        let port = |id, label: &str, addresses| PortStat {
            id,
            label: label.into(),
            addresses,
            counters: vec![("packets sent", 5), ("packets dropped", 2)],
        };
        let learned = (0..10).map(|n| ([2, 0, 0, 0, 0, n], false)).collect();
        vec![SwitchStat {
            name: "lan".into(),
            ports: vec![
                port(0, "vm web: net0", vec![([0x52, 0x54, 0, 0, 0, 1], true)]),
                port(1, "uplink", learned),
            ],
        }]
    }

    fn check_disk(&self, name: &str) -> Result<(), ManageError> {
        match name {
            "root-1" => Ok(()),
            _ => Err(ManageError::Other("there is none".into())),
        }
    }

    fn fail_disk(&self, name: &str, _count: u32) -> Result<(), ManageError> {
        self.check_disk(name)
    }

    fn probe(&self, pa: u64) -> Result<u64, Fault> {
        if pa < 0x1000 {
            Err(Fault {
                esr: 0x9600_0010,
                far: pa,
            })
        } else {
            Ok(0xabcd)
        }
    }

    fn scan(&self, complement: u64) -> Result<Scan, ManageError> {
        match complement {
            0 => Err(ManageError::Other("not allowed".into())),
            found => Ok(Scan {
                read: 1000,
                refused: 24,
                found,
            }),
        }
    }

    fn shutdown(&mut self) {
        self.told.push("shutdown".into());
    }
}

#[derive(Default)]
struct Screen {
    text: Vec<u8>,
    attached: Vec<usize>,
    log: HostLog,
}

impl Output for Screen {
    fn write(&mut self, bytes: &[u8]) {
        self.text.extend_from_slice(bytes);
    }
}

impl Terminal for Screen {
    fn attach(&mut self, vm: usize) {
        self.attached.push(vm);
    }

    fn log(&self) -> &HostLog {
        &self.log
    }
}

fn shown(line: &str) -> String {
    let mut screen = Screen::default();
    execute(line, &mut Fake::default(), &mut screen);
    String::from_utf8(screen.text).unwrap()
}

fn told(line: &str) -> (Vec<String>, String) {
    let (mut fake, mut screen) = (Fake::default(), Screen::default());
    execute(line, &mut fake, &mut screen);
    (fake.told, String::from_utf8(screen.text).unwrap())
}

#[test]
fn vm_list_is_a_table() {
    assert_eq!(
        shown("vm list"),
        "NAME      STATE     VCPUS  MEMORY  KIND       UPTIME\n\
         web       running       2    256M  protected  1:02:03\n\
         database  stopped      16     63G  open       -\n\
         vm02      broken        -       -  -          -\n"
    );
}

#[test]
fn vm_top_is_a_table_in_which_100_per_cent_is_a_cpu() {
    assert_eq!(
        shown("vm top"),
        "in the last 2.000 s:\n\
         NAME       VCPUS  WEIGHT   CPU %  WAIT %         RUN        WAIT   EXITS/S\n\
         web            2     100   150.0     0.0     3.001 s     0.000 s        25\n\
         batch-job     16       1     0.3    99.6     0.007 s     1.993 s         0\n"
    );
}

#[test]
fn vm_stat_shows_every_counter() {
    let shown = shown("vm stat web");
    assert!(
        shown.starts_with("web: running, protected, started 3 times\n"),
        "{shown}"
    );
    let column = |name: &str| {
        let line = shown
            .lines()
            .find(|line| line.trim_start().starts_with(name));
        String::from(
            line.unwrap_or_else(|| panic!("no {name} in {shown}"))
                .split_at(22)
                .1
                .trim(),
        )
    };
    assert_eq!(column("memory "), "256M");
    assert_eq!(column("up "), "1:02:03");
    assert_eq!(column("ended last"), "powered off");
    assert_eq!(column("weight"), "300");
    assert_eq!(column("affinity"), "0,2");
    assert_eq!(column("run time vCPU 0"), "1.500 s");
    assert_eq!(column("run time vCPU 1"), "0.250 s");
    assert_eq!(column("wait time vCPU 0"), "0.000 s");
    assert_eq!(column("wait time vCPU 1"), "3.250 s");
    let count = ExitReason::COUNT as u64;
    assert_eq!(
        column("exits to the hostvisor"),
        (count * (count + 1) / 2).to_string()
    );
    for index in 0..count {
        let name = exit_name(ExitReason::decode(index).unwrap());
        assert_eq!(column(&alloc::format!("{name} ")), (index + 1).to_string());
    }
    assert_eq!(column("traps in the core"), "1000");
    for (name, count) in CORE_TRAPS.iter().zip(["100", "200", "300", "400"]) {
        assert_eq!(column(name), count);
    }
}

#[test]
fn vm_stat_shows_rates_of_a_vm_that_runs() {
    assert!(shown("vm stat web").ends_with(
        "device net0, a second in the last 2.500 s\n\
             \x20 packets sent                1307         500/s\n\
             \x20 packets received               5           0/s\n\
             \x20 violations                     1\n"
    ));
    assert!(shown("vm stat database").ends_with(
        "device net0\n\
             \x20 packets sent                1307\n\
             \x20 packets received               5\n\
             \x20 violations                     1\n"
    ));
}

#[test]
fn a_rate_counts_from_zero_where_nothing_was_seen_and_never_fails() {
    let before = |ticks| Before {
        ticks,
        devices: Vec::new(),
    };
    assert_eq!(before(500).rate(0, 0, 7, 1000), 14);
    assert_eq!(before(0).rate(0, 0, 7, 1000), 0);
    assert_eq!(before(1).rate(3, 9, u64::MAX, u64::MAX), 0);
}

#[test]
fn life_cycle_commands_reach_the_machine_and_say_nothing() {
    for action in ["stop", "restart", "destroy"] {
        let (told, shown) = told(&alloc::format!("vm {action} web"));
        assert_eq!(told, [alloc::format!("{action} web")]);
        assert_eq!(shown, "");
    }
    assert_eq!(told("vm start database").0, ["start database"]);
    assert_eq!(
        told("vm weight web 7"),
        (vec!["weight 7 web".into()], String::new())
    );
    assert_eq!(told("shutdown").0, ["shutdown"]);
}

#[test]
fn what_is_refused_gets_one_line_that_says_what_and_how() {
    for action in ["stat", "console", "stop", "start", "restart", "destroy"] {
        let (told, shown) = told(&alloc::format!("vm {action} x"));
        assert_eq!(told, [""; 0]);
        assert_eq!(
            shown,
            alloc::format!("vm {action}: no VM named 'x' (vm list shows them)\n")
        );
    }
    assert_eq!(
        shown("vm weight x 5"),
        "vm weight: no VM named 'x' (vm list shows them)\n"
    );
    assert_eq!(
        shown("vm start web"),
        "vm start: VM 'web' is running (vm stop or vm restart)\n"
    );
    assert_eq!(shown("vm start vm02"), "vm start: vm02: kernel: cut off\n");
    assert_eq!(
        shown("reboot"),
        "reboot: unknown command (help lists them)\n"
    );
}

#[test]
fn console_attaches_by_place_in_the_list() {
    let mut screen = Screen::default();
    execute("vm console database", &mut Fake::default(), &mut screen);
    assert_eq!(screen.attached, [1]);
    assert_eq!(screen.text, b"");
}

#[test]
fn scan_prints_what_it_saw_or_why_not() {
    assert_eq!(
        shown("scan 7"),
        "scan: 1000 pages read, 24 refused, 7 words found\n"
    );
    assert_eq!(shown("scan 0"), "scan: not allowed\n");
}

#[test]
fn probe_prints_the_value_or_the_fault() {
    assert_eq!(
        shown("probe 0x4000_0004"),
        "0x40000000: 0x000000000000abcd\n"
    );
    assert_eq!(
        shown("probe 16"),
        "probe 0x10: fault: synchronous external abort at 0x10 (ESR 0x96000010)\n"
    );
}

#[test]
fn machine_tables() {
    assert_eq!(
        shown("mem"),
        "ram             2097152 KiB\n\
         corevisor         10240 KiB\n\
         hostvisor             0 KiB\n\
         VMs                   0 KiB\n\
         free            1048576 KiB\n\
         free frames      262144\n\
         pool frames          77\n\
         heap                  0 KiB of 0 KiB\n"
    );
    assert_eq!(
        shown("cpu"),
        "CPU  MPIDR       BUSY          IDLE          LOAD  QUEUE\n\
         0    0x00000000       0.250 s       0.750 s   25%      1\n\
         1    0x00000001       0.000 s       0.000 s    0%      1\n"
    );
}

#[test]
fn log_prints_the_log() {
    let mut screen = Screen::default();
    screen.log.push(Kind::Error, format_args!("bad"));
    screen.log.push(Kind::Info, format_args!("good"));
    execute("log", &mut Fake::default(), &mut screen);
    assert_eq!(
        screen.text,
        b"[    0.000000] error bad\n[    0.000000] info  good\n"
    );
}

#[test]
fn help_names_every_command() {
    let help = shown("help");
    for command in crate::shell::parse::COMMANDS {
        assert!(
            help.lines().any(|line| line.starts_with(command)),
            "{command}"
        );
    }
    for command in crate::shell::parse::VM_COMMANDS {
        let start = alloc::format!("vm {command} ");
        assert!(
            help.lines().any(|line| line.starts_with(&start)),
            "{command}"
        );
    }
}

#[test]
fn a_clock_at_the_ends_of_its_range() {
    assert_eq!(time(u64::MAX, 0), Duration::ZERO);
    assert_eq!(time(u64::MAX, u64::MAX), Duration::from_secs(1));
    assert_eq!(time(62_500_000, 62_500_000), Duration::from_secs(1));
    let _ = time(u64::MAX, 1);
}

proptest! {
    #[test]
    fn any_line_is_answered_and_a_refusal_is_one_line(line in "((vm|list|stat|start|web|x|log|probe|0x9|help|shutdown)( |\t)){0,4}|\\PC{0,60}") {
        let (told, shown) = told(&line);
        if told.is_empty() && crate::shell::parse::parse(&line).is_err() {
            prop_assert_eq!(shown.matches('\n').count(), 1);
            prop_assert!(shown.ends_with('\n'));
        }
    }
}

#[test]
fn net_shows_ports_addresses_and_counters_and_stops_at_some() {
    let shown = shown("net");
    assert!(
        shown.starts_with("switch lan: 2 ports\n  port 0: vm web: net0\n"),
        "{shown}"
    );
    assert!(
        shown.contains("    52:54:00:00:00:01  its own\n"),
        "{shown}"
    );
    assert!(
        shown.contains("    packets dropped                2\n"),
        "{shown}"
    );
    assert_eq!(shown.matches("learned").count(), 8, "{shown}");
    assert!(shown.contains("    and 2 more\n"), "{shown}");
}

#[test]
fn a_disk_that_is_not_there_gets_one_line() {
    for command in ["disk check", "disk fail"] {
        let line = |name: &str| {
            shown(&alloc::format!(
                "{command} {name}{}",
                if command == "disk fail" { " 3" } else { "" }
            ))
        };
        assert_eq!(line("root-1"), "");
        assert_eq!(line("root-2"), alloc::format!("{command}: there is none\n"));
    }
}
