//! The management shell: reads a line, asks the machine through [`Manage`], prints an answer.
//!
//! Has the habits of `virsh` and `xl`. A wrong command gets one line that says what is wrong and what
//! would be right. Knows nothing of how VMs work: tests run it against a fake machine.

pub mod commands;
mod disks;
pub mod editor;
pub mod manage;
mod nets;
pub mod parse;
mod top;

use crate::console::{self, Output};
use crate::log::HostLog;
pub use commands::execute;
pub use manage::Manage;

/// What a command needs of the console besides printing.
pub trait Terminal: Output {
    /// Attaches the console of the VM at this place in [`Manage::list`].
    fn attach(&mut self, vm: usize);
    /// The log that `log` prints.
    fn log(&self) -> &HostLog;
}

/// Runs a command that [`console::receive`] gave out, on the machine's console.
pub fn run(line: &str, manage: &mut dyn Manage) {
    execute(line, manage, &mut console::CommandOutput);
    console::command_done();
}
