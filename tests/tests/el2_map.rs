//! The corevisor's own translation tables, as they are on a machine that runs: nothing that is executed or
//! that translates can be written, and stacks end in pages that are not there. QEMU's GDB server shows them.

use std::io;

use tests::artifacts::scratch_dir;
use tests::gdb::Gdb;
use tests::{Machine, Run};

const CPUS: u32 = 2;
const PAGE: u64 = 4096;
/// Pages of a CPU's stack.
const STACK_PAGES: u64 = 7;
/// SCTLR_EL2.{M, WXN}: MMU on; what is writable is not executable, whatever its descriptor says.
const SCTLR: u64 = 1 << 0 | 1 << 19;

/// A block or page of the map.
#[derive(Clone, Copy, Debug)]
struct Leaf {
    start: u64,
    size: u64,
    output: u64,
    writable: bool,
    executable: bool,
}

/// Everything that is reached from TTBR0_EL2.
#[derive(Default)]
struct Map {
    tables: Vec<u64>,
    leaves: Vec<Leaf>,
}

impl Map {
    /// Walks the table at `table` (VMSAv8-64, 4 KiB granule, 48 bits, one privilege level).
    fn walk(&mut self, gdb: &mut Gdb, table: u64, level: u32, base: u64) -> io::Result<()> {
        self.tables.push(table);
        let size = PAGE << (9 * (3 - level));
        for (index, entry) in (0..).zip(gdb.words(table, 512)?) {
            let start = base + index * size;
            let output = entry & 0x0000_ffff_ffff_f000;
            match (entry & 3, level) {
                (3, 0..=2) => self.walk(gdb, output, level + 1, start)?,
                (1, 1 | 2) | (3, 3) => self.leaves.push(Leaf {
                    start,
                    size,
                    output,
                    // AP[2] and XN.
                    writable: entry & 1 << 7 == 0,
                    executable: entry & 1 << 54 == 0,
                }),
                _ => {}
            }
        }
        Ok(())
    }

    fn at(&self, address: u64) -> Option<&Leaf> {
        self.leaves
            .iter()
            .find(|leaf| (leaf.start..leaf.start + leaf.size).contains(&address))
    }
}

fn look(run: &Run, gdb: &mut Gdb) -> io::Result<()> {
    let mut map = Map::default();
    let root = gdb.register("TTBR0_EL2")?;
    map.walk(gdb, root, 0, 0)?;
    run.check(map.leaves.len() > 10, "the map is all but empty");
    for leaf in &map.leaves {
        run.check(
            leaf.output == leaf.start,
            &format!("not identity: {leaf:x?}"),
        );
        let both = leaf.writable && leaf.executable;
        run.check(!both, &format!("writable and executable: {leaf:x?}"));
    }
    for table in &map.tables {
        let leaf = map.at(*table);
        run.check(
            leaf.is_some_and(|leaf| !leaf.writable),
            &format!("table {table:#x} can be written: {leaf:x?}"),
        );
    }
    for cpu in 0..CPUS as usize {
        gdb.select_cpu(cpu)?;
        let own = gdb.register("TTBR0_EL2")?;
        run.check(
            own == root,
            &format!("CPU {cpu} has the tables at {own:#x}"),
        );
        let sctlr = gdb.register("SCTLR_EL2")?;
        run.check(
            sctlr & SCTLR == SCTLR,
            &format!("CPU {cpu}: SCTLR_EL2 is {sctlr:#x}"),
        );
        let vectors = gdb.register("VBAR_EL2")?;
        let leaf = map.at(vectors);
        run.check(
            leaf.is_some_and(|leaf| leaf.executable && !leaf.writable),
            &format!("CPU {cpu}: vectors at {vectors:#x} are in {leaf:x?}"),
        );
        let stack = gdb.register("SP_EL2")? - 8;
        run.check(
            map.at(stack).is_some_and(|leaf| leaf.writable),
            &format!("CPU {cpu}: no stack at {stack:#x}"),
        );
        let below = (0..=STACK_PAGES).map(|n| stack - n * PAGE);
        run.check(
            below.into_iter().any(|page| map.at(page).is_none()),
            &format!("CPU {cpu}: no guard page below {stack:#x}"),
        );
    }
    Ok(())
}

#[test]
fn code_vectors_constants_and_tables_cannot_be_written_and_stacks_have_guards() {
    let dir = scratch_dir("el2_map-socket");
    let socket = dir.join("gdb");
    let server = format!("unix:{},server=on,wait=off", socket.display());
    let machine = Machine::new().cpus(CPUS).interactive();
    let mut run = machine.qemu_arg("-gdb").qemu_arg(&server).start_empty();
    run.expect_prompt();
    let looked = Gdb::connect(&socket).and_then(|mut gdb| look(&run, &mut gdb));
    if let Err(error) = looked {
        run.fail(&format!("GDB: {error}"));
    }
    run.shutdown();
}
