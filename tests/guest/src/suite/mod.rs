//! The tests, one file for each part of the machine, and the table that names them.

mod boot;
mod disk;
mod gic;
mod load;
mod mmio;
mod modes;
mod net;
mod psci;
mod smccc;
mod state;
mod sysregs;
mod timers;
mod virtio;
mod wakeups;

use crate::verdict::Verdict;

/// What a test needs in order to make sense.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Needs {
    /// Any machine.
    Any,
    /// A hypervisor: on a bare machine the answer rightly differs.
    Hypervisor,
    /// Runs only when asked for by name: it does not end by itself, or is for a device that few machines have.
    Name,
}

/// One test.
pub(crate) struct Test {
    pub(crate) name: &'static str,
    pub(crate) needs: Needs,
    /// Fewest CPUs.
    pub(crate) cpus: usize,
    pub(crate) run: fn() -> Verdict,
}

const fn any(name: &'static str, run: fn() -> Verdict) -> Test {
    Test {
        name,
        needs: Needs::Any,
        cpus: 1,
        run,
    }
}

const fn smp(name: &'static str, run: fn() -> Verdict) -> Test {
    Test {
        name,
        needs: Needs::Any,
        cpus: 2,
        run,
    }
}

const fn hypervisor(name: &'static str, run: fn() -> Verdict) -> Test {
    Test {
        name,
        needs: Needs::Hypervisor,
        cpus: 1,
        run,
    }
}

const fn mode(name: &'static str, run: fn() -> Verdict) -> Test {
    Test {
        name,
        needs: Needs::Name,
        cpus: 1,
        run,
    }
}

/// Every test, in the order in which they run.
pub(crate) static TESTS: &[Test] = &[
    any("device-tree", boot::device_tree),
    any("own-exceptions", boot::own_exceptions),
    any("cache-maintenance", boot::cache_maintenance),
    any("psci-version", psci::version),
    any("psci-errors", psci::errors),
    smp("psci-cpu-on", psci::powering_on),
    smp("psci-cpu-off", psci::powering_off),
    any("smccc-unknown", smccc::unknown),
    hypervisor("smccc-version", smccc::version),
    hypervisor("smccc-host-calls", smccc::host_calls),
    any("smc", smccc::smc),
    any("id-registers", sysregs::id_registers),
    hypervisor("id-features", sysregs::id_features),
    hypervisor("sysreg-undef", sysregs::undefined),
    any("sysreg-sweep", sysregs::sweep),
    any("sysreg-write-impdef", sysregs::write_implementation_defined),
    any("mmio-decode", mmio::decode),
    any("mmio-unmapped", mmio::unmapped),
    any("mmio-no-syndrome", mmio::no_syndrome),
    any("mmio-page-end", mmio::page_end),
    any("mmio-fetch", mmio::fetch),
    hypervisor("mmio-walk", mmio::walk),
    hypervisor("beyond-ram", mmio::beyond_ram),
    any("rtc", mmio::rtc),
    any("rtc-alarm", wakeups::rtc_alarm),
    any("gic-self-sgi", gic::self_sgi),
    smp("gic-sgi", gic::sgi),
    smp("gic-sgi-senders", gic::sgi_senders),
    any("gic-sgi-group0", gic::sgi_group0),
    any("gic-spi", gic::spi),
    any("gic-priority", gic::priority),
    any("gic-many-pending", gic::many_pending),
    smp("gic-routing", gic::routing),
    any("gic-redistributors", gic::redistributors),
    any("gic-register-sweep", gic::register_sweep),
    any("uart-interrupt", gic::uart_interrupt),
    any("timer-virtual", timers::virtual_timer),
    any("timer-physical", timers::physical_timer),
    any("timer-registers", timers::registers),
    any("time-monotonic", timers::monotonic),
    hypervisor("virtio-entropy", virtio::entropy),
    hypervisor("virtio-hostile", virtio::hostile),
    hypervisor("virtio-private", virtio::private),
    hypervisor("net-frames", net::frames),
    hypervisor("net-hostile", net::hostile),
    hypervisor("net-private", net::private),
    any("state-exits", state::across_exits),
    any("state-switches", state::across_switches),
    any("wfi-self", wakeups::self_wakeups),
    smp("wfi-ping-pong", wakeups::ping_pong),
    smp("wfi-ring", wakeups::ring),
    smp("psci-cpu-off-again", psci::powering_off),
    mode("micro", crate::micro::run),
    mode("disk", disk::works),
    mode("disk-zeroes", disk::zeroes),
    mode("disk-full", disk::full),
    mode("disk-fails", disk::fails),
    mode("disk-reset", disk::reset),
    mode("disk-hostile", disk::hostile),
    mode("disk-private", disk::private),
    mode("reset", modes::reset),
    mode("uart-flood", modes::uart_flood),
    mode("echo", modes::echo),
    mode("spin", modes::spin),
    mode("work", load::work),
    mode("ticks", load::ticks_on_time),
    mode("lock-and-wake", load::lock_and_wake),
    mode("sleep", modes::sleep),
    mode("fail", modes::fail),
    mode("crash", modes::crash),
    mode("fill", modes::fill),
    mode("forge-panic", modes::forge_panic),
    mode("forge-success", modes::forge_success),
];
