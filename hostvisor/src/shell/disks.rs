//! What `disk` prints.

use super::Manage;
use super::commands::{Printer, Size};
use super::parse::Typed;
use core::fmt::{self, Write as _};

/// All disks, each followed by its partitions.
pub(super) fn list(manage: &dyn Manage, out: &mut Printer<'_>) -> fmt::Result {
    let disks = manage.disks();
    if disks.is_empty() {
        return writeln!(out, "no disks in this machine that there is a driver for");
    }
    let width = disks.iter().map(|d| d.name.len()).fold(4, usize::max);
    writeln!(
        out,
        "{:width$}  SIZE     ACCESS     REQUESTS  ERRORS  NOW  READ      WRITTEN",
        "NAME"
    )?;
    for disk in &disks {
        let access = match (disk.dead, disk.read_only) {
            (true, _) => "dead",
            (false, true) => "read-only",
            (false, false) => "writable",
        };
        writeln!(
            out,
            "{:width$}  {:<7}  {access:9}  {:>8}  {:>6}  {:>3}  {:<8}  {}",
            disk.name,
            Size(disk.bytes),
            disk.requests,
            disk.errors,
            disk.in_flight,
            Size(disk.read),
            Size(disk.written)
        )?;
        for (label, bytes) in &disk.partitions {
            let label = alloc::format!("{}", Typed(label));
            writeln!(out, "  partition {label:36}  {}", Size(*bytes))?;
        }
    }
    Ok(())
}
