//! The attacks, one file for each row (or two) of the list of hostile acts; `docs/attacks.md` maps them.

mod calls;
mod core_memory;
mod donate;
mod exhaust;
mod flip;
mod gic;
mod leftovers;
mod lifecycle;
mod lists;
mod private;
mod races;
mod ranges;
mod stale;
mod sysregs;
mod vcpu;

use crate::verdict::Outcome;

/// Name and deed.
pub(crate) type Attack = (&'static str, fn() -> Outcome);

/// A value that nobody but a guest with a secret has.
pub(crate) const SECRET: u64 = 0x5ec3_e75e_c4e7_0001;

/// All of them, in order.
pub(crate) fn all() -> impl Iterator<Item = Attack> {
    [
        core_memory::ATTACKS,
        private::ATTACKS,
        donate::ATTACKS,
        ranges::ATTACKS,
        lifecycle::ATTACKS,
        races::ATTACKS,
        stale::ATTACKS,
        flip::ATTACKS,
        vcpu::ATTACKS,
        leftovers::ATTACKS,
        calls::ATTACKS,
        sysregs::ATTACKS,
        lists::ATTACKS,
        gic::ATTACKS,
        exhaust::ATTACKS,
    ]
    .into_iter()
    .flatten()
    .copied()
}
