//! Runs the tests that the command line names and prints their verdicts.

use core::cell::UnsafeCell;
use core::panic::PanicInfo;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::console::println;
use crate::suite::{self, Needs, Test};
use crate::verdict::{Problem, Text, Verdict, fail};
use crate::{cpu, gic, platform, psci, smp, timer};

unsafe extern "C" {
    fn run_protected(f: extern "C" fn(), context: *mut u64) -> u64;
    fn escape(context: *mut u64) -> !;
}

struct Global<T>(UnsafeCell<T>);
// SAFETY: used by the boot CPU only, one test after another.
unsafe impl<T> Sync for Global<T> {}

/// Callee-saved registers to come back to when a test takes an unexpected exception.
static ESCAPE: Global<[u64; 12]> = Global(UnsafeCell::new([0; 12]));
static RESULT: Global<Option<Verdict>> = Global(UnsafeCell::new(None));
static CURRENT: AtomicUsize = AtomicUsize::new(0);
static RUNNING: AtomicBool = AtomicBool::new(false);

/// For the exception handler: where CPU `index` goes on after an unexpected exception.
pub(crate) fn escape_frame(index: usize) -> Option<(u64, u64)> {
    (index == 0 && RUNNING.swap(false, Ordering::SeqCst))
        .then(|| (escape as *const () as u64, ESCAPE.0.get() as u64))
}

extern "C" fn call_current() {
    let verdict = (suite::TESTS[CURRENT.load(Ordering::SeqCst)].run)();
    // SAFETY: see `Global`.
    unsafe { *RESULT.0.get() = Some(verdict) };
}

fn run(index: usize, test: &Test) -> Verdict {
    if platform::cpus() < test.cpus {
        return Err(Problem::Skip("needs more CPUs"));
    }
    if test.needs == Needs::Hypervisor && on_bare_machine() {
        return Err(Problem::Skip("bare machine"));
    }
    let strays = gic::strays();
    CURRENT.store(index, Ordering::SeqCst);
    RUNNING.store(true, Ordering::SeqCst);
    // SAFETY: the context outlives the call; see `Global` for the result.
    let came_back = unsafe {
        *RESULT.0.get() = None;
        run_protected(call_current, ESCAPE.0.get().cast()) == 0
    };
    RUNNING.store(false, Ordering::SeqCst);
    cpu::unmask();
    if !came_back {
        fail!("unexpected exception or panic, see above");
    }
    // SAFETY: see `Global`.
    let verdict = unsafe { (*RESULT.0.get()).take() };
    verdict.unwrap_or(Ok(()))?;
    if gic::strays() != strays {
        fail!("{} interrupts nobody asked for", gic::strays() - strays);
    }
    Ok(())
}

/// `platform=bare` on the command line: no hypervisor is under us.
pub(crate) fn on_bare_machine() -> bool {
    platform::argument("platform") == Some("bare")
}

fn selected(names: &str, test: &Test) -> bool {
    names
        .split(',')
        .any(|name| name == test.name || name == "all" && test.needs != Needs::Name)
}

#[derive(Default)]
struct Tally {
    passed: u32,
    failed: u32,
    skipped: u32,
}

impl Tally {
    fn record(&mut self, name: &str, verdict: Result<(), &Problem>) {
        match verdict {
            Ok(()) => {
                self.passed += 1;
                println!("TEST {name}: pass");
            }
            Err(Problem::Skip(why)) => {
                self.skipped += 1;
                println!("TEST {name}: skip ({why})");
            }
            Err(Problem::Fail(why)) => {
                self.failed += 1;
                println!("TEST {name}: FAIL {}", why.as_str());
            }
        }
    }
}

/// Where the boot CPU arrives.
#[unsafe(no_mangle)]
extern "C" fn guest_main(tree: u64, loaded_at: u64) -> ! {
    let start = timer::now();
    let ready = platform::init(tree, loaded_at);
    println!(
        "guest: bare-metal test guest at {loaded_at:#x}, {} CPUs",
        platform::cpus()
    );
    if let Err(why) = ready {
        println!("TEST boot: FAIL {why}");
        println!("TESTS done: 0 passed, 1 failed, 0 skipped");
        psci::system_off();
    }
    gic::init_distributor();
    gic::init_cpu();

    let names = platform::argument("test").unwrap_or("all");
    let mut tally = Tally::default();
    for (index, test) in suite::TESTS.iter().enumerate() {
        if selected(names, test) {
            println!("TEST {}: start", test.name);
            tally.record(test.name, run(index, test).as_ref().map(|_| ()));
        }
    }
    for name in names.split(',') {
        if name != "all" && !suite::TESTS.iter().any(|t| t.name == name) {
            tally.record(
                name,
                Err(&Problem::Fail(Text::new(format_args!("no such test")))),
            );
        }
    }
    println!("guest: {} ms", timer::micros(timer::now() - start) / 1000);
    println!(
        "TESTS done: {} passed, {} failed, {} skipped",
        tally.passed, tally.failed, tally.skipped
    );
    if platform::argument("end") == Some("stay") {
        cpu::sleep_until(|| false);
    }
    psci::system_off();
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    let index = cpu::index();
    println!("guest: cpu {index}: {info}");
    match escape_frame(index) {
        // SAFETY: the context was filled by the run_protected call that is still on our stack.
        Some((_, context)) => unsafe { escape(context as *mut u64) },
        None => psci::cpu_off(),
    }
}

/// Whether the other CPUs could be started; tests that use them call this first.
pub(crate) fn others() -> Result<core::ops::Range<usize>, Problem> {
    smp::start_all()?;
    Ok(1..platform::cpus())
}
