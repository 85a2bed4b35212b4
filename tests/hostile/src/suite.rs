//! The run: each attack by name, with a look at the machine's health behind it.

use crate::attacks;
use crate::console::say;
use crate::guest::Do;
use crate::verdict::Failure;
use crate::vm::Vm;
use crate::{call, frames, smp};

/// A tiny VM lives and dies: the machine still does what it is for.
fn machine_is_alive() -> Result<(), Failure> {
    frames::reset();
    let vm = Vm::running(true, 1)?;
    let counted = vm.first().command(Do::Count, &[100])?;
    vm.destroy()?;
    if counted == 100 {
        Ok(())
    } else {
        Err(Failure::Skipped("the guest cannot count"))
    }
}

/// Carries out the attacks of a list like `core-read,core-write`, or `all`, and ends the machine.
pub(crate) fn run(selection: &str) -> ! {
    smp::start_all();
    say!(
        "hostile: {} CPUs, RAM to {:#x}",
        smp::count(),
        frames::ram_end()
    );
    let (mut refused, mut succeeded, mut void, mut skipped) = (0, 0, 0, 0);
    let selected = |name: &str| selection == "all" || selection.split(',').any(|one| one == name);
    for (name, attack) in attacks::all().filter(|(name, _)| selected(name)) {
        frames::reset();
        let outcome = attack();
        match outcome {
            Ok(how) => {
                refused += 1;
                say!("ATTACK {name}: refused ({how})");
            }
            Err(Failure::Succeeded(what)) => {
                succeeded += 1;
                say!("ATTACK {name}: SUCCEEDED {what}");
            }
            Err(Failure::Void(why)) => {
                void += 1;
                say!("ATTACK {name}: VOID {why}");
            }
            Err(Failure::Skipped(why)) => {
                skipped += 1;
                say!("ATTACK {name}: skipped ({why})");
            }
        }
        if let Err(failure) = machine_is_alive() {
            succeeded += 1;
            say!("ATTACK {name}: SUCCEEDED the machine is damaged: {failure}");
        }
    }
    say!("ATTACKS done: {refused} refused, {succeeded} succeeded, {void} void, {skipped} skipped");
    call::system_off()
}
