/*
 * SPDX-License-Identifier: MIT
 *
 * A TCG plugin for qemu-system-aarch64 that counts executed instructions by exception level and VM, between two
 * marks that a guest sets. It knows no hypervisor: host and guest are told apart by HCR_EL2 and VTTBR_EL2 alone,
 * so KVM with and without VHE, pKVM and Cloister are counted by the same rules.
 *
 *   hint #0x60   starts a window (x9: the operation's number)
 *   hint #0x61   ends it         (x9: how many rounds it had)
 *   hint #0x62   leaves out what follows, hint #0x63 goes on
 *
 * These hints are NOPs on every processor and in every hypervisor (Arm ARM C6.2.129), so the guest that sets them
 * is the same one, plugin or not.
 *
 * Option vms=N: each of N VMs sets the marks once, and there is one window, from the first start to the last end.
 * Windows numbered from 99 on are none: their start is noted (REACHED, below) and nothing else. They must not overlap
 * others.
 * Option out=FILE. For each window and context in which something ran, one line there:
 *
 *   WINDOW NUMBER OPERATION ROUNDS CONTEXT INSTRUCTIONS ERETS SYSREGS TLBIS BARRIERS
 *
 * and each time that the first instruction of a context is reached, or the start of a window, and when the machine is
 * off, a line for each context in which something ran until then, from the machine's start. NAME is the context, or mark
 * and the operation's number, or off:
 *
 *   REACHED NAME CONTEXT INSTRUCTIONS
 *
 * CONTEXT is el3; el2 (with VHE the host's kernel is in it); host.el1, host.el0; vmN.el1, vmN.el0 for the VM with
 * VMID N. Option hot=N adds the N hottest translation blocks of each window that are no guest's:
 *
 *   HOT NUMBER OPERATION ROUNDS CONTEXT PC INSTRUCTIONS-OF-THE-BLOCK EXECUTIONS
 *
 * Every instruction is counted where it executes, not where its block starts: an instruction that faults in the
 * middle of a block ends the count there. Needs -icount, under which QEMU runs all CPUs in one thread.
 */
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <glib.h>
#include <qemu-plugin.h>

QEMU_PLUGIN_EXPORT int qemu_plugin_version = QEMU_PLUGIN_VERSION;

enum { MAX_CONTEXTS = 128, MAX_BLOCKS = 1 << 18 };

/* What is counted in each context. */
enum { INSTRUCTIONS, ERETS, SYSREGS, TLBIS, BARRIERS, KINDS };

/* One counter array for all CPUs: see -icount above. */
typedef struct { uint64_t count[MAX_CONTEXTS][KINDS]; } Counts;

typedef struct { char name[16]; } Context;

/* A translation block of the host or of EL2, for hot=N. */
typedef struct {
    uint64_t pc, executions, at_start;
    unsigned context, instructions;
} Block;

static Context contexts[MAX_CONTEXTS];
static unsigned context_count;
static Counts now, start, window;
static bool in_window, running, noted;
static uint64_t window_id, window_number;
static unsigned vms = 1, ended; /* VMs that set marks, and those that have ended the window */
static FILE *out;
static struct qemu_plugin_register *cpsr, *hcr_el2, *vttbr_el2, *x9;
static GByteArray *bytes;
static Block *blocks;
static unsigned block_count, hot;
static GHashTable *block_of; /* "pc:context:length" to index + 1 */
/* One CPU: QEMU adds inline. More: it cannot under -icount (QEMU 10.0 crashes), and calls back. */
static bool inline_counts;
static struct qemu_plugin_scoreboard *board;

static uint64_t read_register(struct qemu_plugin_register *handle)
{
    uint64_t value = 0;
    g_byte_array_set_size(bytes, 0);
    int size = handle ? qemu_plugin_read_register(handle, bytes) : 0;
    if (size > 0) {
        memcpy(&value, bytes->data, size < 8 ? size : 8);
    }
    return value;
}

static void find_registers(qemu_plugin_id_t id, unsigned int cpu)
{
    (void)id, (void)cpu;
    if (cpsr) {
        return;
    }
    GArray *all = qemu_plugin_get_registers();
    for (guint i = 0; i < all->len; i++) {
        qemu_plugin_reg_descriptor *each = &g_array_index(all, qemu_plugin_reg_descriptor, i);
        if (!strcmp(each->name, "cpsr")) {
            cpsr = each->handle;
        } else if (!strcmp(each->name, "x9")) {
            x9 = each->handle;
        } else if (!strcmp(each->name, "HCR_EL2")) {
            hcr_el2 = each->handle;
        } else if (!strcmp(each->name, "VTTBR_EL2")) {
            vttbr_el2 = each->handle;
        }
    }
    g_array_free(all, true);
    /* A processor without EL2 has no HCR_EL2 and VTTBR_EL2: they read as 0 here, and nothing is a guest. */
    if (!cpsr || !x9 || !hcr_el2 != !vttbr_el2) {
        fprintf(stderr, "levels: this QEMU does not show cpsr, x9, HCR_EL2 and VTTBR_EL2\n");
        exit(1);
    }
}

/* HCR_EL2 (Arm ARM D24.2.55) */
#define HCR_VM (UINT64_C(1) << 0)
#define HCR_TGE (UINT64_C(1) << 27)

static Counts snapshot(void)
{
    return inline_counts ? *(Counts *)qemu_plugin_scoreboard_find(board, 0) : now;
}

static void print_reached(const char *what)
{
    Counts counts = snapshot();
    for (unsigned c = 0; c < context_count; c++) {
        if (counts.count[c][INSTRUCTIONS]) {
            fprintf(out, "REACHED %s %s %" PRIu64 "\n", what, contexts[c].name, counts.count[c][INSTRUCTIONS]);
        }
    }
    fflush(out);
}

/*
 * The context of the code being translated. A block of instructions is of one exception level, and host and
 * guests are on different pages, so the answer holds for as long as the block is kept.
 */
static unsigned current_context(void)
{
    char name[sizeof(contexts[0].name)];
    uint64_t state = read_register(cpsr), hcr = read_register(hcr_el2);
    unsigned level = state >> 2 & 3;
    if (state & 0x10) {
        /* AArch32: only user mode (M[3:0] = 0) is EL0 */
        level = (state & 0xf) != 0;
    }
    /* The host of nVHE KVM runs without stage 2, those of pKVM and of Cloister with VMID 0 in theirs. */
    unsigned vmid = read_register(vttbr_el2) >> 48;
    bool guest = level < 2 && !(hcr & HCR_TGE) && (hcr & HCR_VM) && vmid != 0;
    if (guest) {
        snprintf(name, sizeof(name), "vm%u.el%u", vmid, level);
    } else {
        snprintf(name, sizeof(name), level < 2 ? "host.el%u" : "el%u", level);
    }
    for (unsigned i = 0; i < context_count; i++) {
        if (!strcmp(contexts[i].name, name)) {
            return i;
        }
    }
    if (context_count == MAX_CONTEXTS) {
        fprintf(stderr, "levels: more than %d contexts\n", MAX_CONTEXTS);
        exit(1);
    }
    /* Translated now, so executed next. */
    print_reached(name);
    strcpy(contexts[context_count].name, name);
    return context_count++;
}

/* Adds what ran since `start` to the window. */
static void pause_window(void)
{
    Counts end = snapshot();
    for (unsigned c = 0; running && c < context_count; c++) {
        for (unsigned k = 0; k < KINDS; k++) {
            window.count[c][k] += end.count[c][k] - start.count[c][k];
        }
    }
    running = false;
}

static void resume_window(void)
{
    start = snapshot();
    running = true;
}

static int hotter(const void *a, const void *b)
{
    const Block *x = a, *y = b;
    uint64_t left = (x->executions - x->at_start) * x->instructions;
    uint64_t right = (y->executions - y->at_start) * y->instructions;
    return left < right ? 1 : left > right ? -1 : 0;
}

static void print_hot(uint64_t rounds)
{
    Block *sorted = g_new(Block, block_count);
    memcpy(sorted, blocks, block_count * sizeof(*blocks));
    qsort(sorted, block_count, sizeof(*sorted), hotter);
    for (unsigned i = 0; i < block_count && i < hot && sorted[i].executions > sorted[i].at_start; i++) {
        fprintf(out, "HOT %" PRIu64 " %" PRIu64 " %" PRIu64 " %s %" PRIx64 " %u %" PRIu64 "\n", window_number, window_id,
                rounds, contexts[sorted[i].context].name, sorted[i].pc, sorted[i].instructions,
                sorted[i].executions - sorted[i].at_start);
    }
    g_free(sorted);
}

static void print_window(uint64_t rounds)
{
    for (unsigned c = 0; c < context_count; c++) {
        const uint64_t *n = window.count[c];
        if (n[INSTRUCTIONS]) {
            fprintf(out, "WINDOW %" PRIu64 " %" PRIu64 " %" PRIu64 " %s", window_number, window_id, rounds, contexts[c].name);
            for (unsigned k = 0; k < KINDS; k++) {
                fprintf(out, " %" PRIu64, n[k]);
            }
            fputc('\n', out);
        }
    }
    if (hot) {
        print_hot(rounds);
    }
    fflush(out);
}

/* The least number of a window that is only noted. */
enum { FIRST_NOTED = 99 };

enum { MARK_START = 0x60, MARK_END, MARK_PAUSE, MARK_RESUME };

static void on_mark(unsigned int cpu, void *mark)
{
    char mark_name[32];
    uint64_t number;
    (void)cpu;
    switch ((uintptr_t)mark) {
    case MARK_START:
        number = read_register(x9);
        if (in_window && vms > 1 && number < FIRST_NOTED) {
            break;
        }
        snprintf(mark_name, sizeof(mark_name), "mark%" PRIu64, number);
        print_reached(mark_name);
        noted = number >= FIRST_NOTED;
        if (noted) {
            break;
        }
        ended = 0;
        window_id = number;
        memset(&window, 0, sizeof(window));
        for (unsigned i = 0; i < block_count; i++) {
            blocks[i].at_start = blocks[i].executions;
        }
        in_window = true;
        resume_window();
        break;
    case MARK_END:
        if (noted) {
            noted = false;
            break;
        }
        if (!in_window || ++ended < vms) {
            break;
        }
        pause_window();
        window_number++;
        print_window(read_register(x9));
        in_window = false;
        break;
    case MARK_PAUSE:
        if (in_window) {
            pause_window();
        }
        break;
    case MARK_RESUME:
        if (in_window) {
            resume_window();
        }
        break;
    }
}

static void add_one(unsigned int cpu, void *counter)
{
    (void)cpu;
    ++*(uint64_t *)counter;
}

static void count(struct qemu_plugin_insn *instruction, unsigned context, unsigned kind)
{
    if (inline_counts) {
        qemu_plugin_u64 entry = { board, offsetof(Counts, count[context][kind]) };
        qemu_plugin_register_vcpu_insn_exec_inline_per_vcpu(instruction, QEMU_PLUGIN_INLINE_ADD_U64, entry, 1);
    } else {
        qemu_plugin_register_vcpu_insn_exec_cb(instruction, add_one, QEMU_PLUGIN_CB_NO_REGS,
                                               &now.count[context][kind]);
    }
}

/* The kind of an A64 instruction beside being one (Arm ARM C4.1.94), or INSTRUCTIONS. */
static unsigned kind_of(uint32_t op)
{
    if (op == 0xd69f03e0) {
        return ERETS;
    }
    if ((op & 0xffd00000) == 0xd5100000) {
        return SYSREGS; /* MRS, MSR (register) */
    }
    if ((op & 0xfff8e000) == 0xd5088000) {
        return TLBIS; /* SYS with CRn 8 or 9 */
    }
    if ((op & 0xfffff0ff) == 0xd503309f || (op & 0xfffff0ff) == 0xd50330df) {
        return BARRIERS; /* DSB, ISB */
    }
    return INSTRUCTIONS;
}

static void count_block(struct qemu_plugin_tb *tb, unsigned context, unsigned instructions)
{
    if (!strncmp(contexts[context].name, "vm", 2)) {
        return;
    }
    char *key = g_strdup_printf("%" PRIx64 ":%u:%u", qemu_plugin_tb_vaddr(tb), context, instructions);
    unsigned index = GPOINTER_TO_UINT(g_hash_table_lookup(block_of, key));
    if (index == 0 && block_count < MAX_BLOCKS) {
        blocks[block_count] = (Block){ .pc = qemu_plugin_tb_vaddr(tb), .context = context, .instructions = instructions };
        index = ++block_count;
        g_hash_table_insert(block_of, key, GUINT_TO_POINTER(index));
    } else {
        g_free(key);
    }
    if (index) {
        qemu_plugin_register_vcpu_tb_exec_cb(tb, add_one, QEMU_PLUGIN_CB_NO_REGS, &blocks[index - 1].executions);
    }
}

static void on_translation(qemu_plugin_id_t id, struct qemu_plugin_tb *tb)
{
    (void)id;
    unsigned context = current_context();
    size_t instructions = qemu_plugin_tb_n_insns(tb);
    if (hot) {
        count_block(tb, context, instructions);
    }
    for (size_t i = 0; i < instructions; i++) {
        struct qemu_plugin_insn *instruction = qemu_plugin_tb_get_insn(tb, i);
        uint32_t op = 0;
        qemu_plugin_insn_data(instruction, &op, sizeof(op));
        count(instruction, context, INSTRUCTIONS);
        unsigned kind = kind_of(op);
        if (kind != INSTRUCTIONS) {
            count(instruction, context, kind);
        }
        /* HINT #imm: 0xd503201f with imm in bits 5 to 11 */
        unsigned hint = op >> 5 & 0x7f;
        if ((op & 0xfffff01f) == 0xd503201f && hint >= MARK_START && hint <= MARK_RESUME) {
            qemu_plugin_register_vcpu_insn_exec_cb(instruction, on_mark, QEMU_PLUGIN_CB_R_REGS,
                                                   (void *)(uintptr_t)hint);
        }
    }
}

static void on_exit(qemu_plugin_id_t id, void *nothing)
{
    (void)id, (void)nothing;
    print_reached("off");
}

QEMU_PLUGIN_EXPORT int qemu_plugin_install(qemu_plugin_id_t id, const qemu_info_t *info, int argc, char **argv)
{
    if (strcmp(info->target_name, "aarch64") || !info->system_emulation) {
        fprintf(stderr, "levels: made for qemu-system-aarch64\n");
        return -1;
    }
    for (int i = 0; i < argc; i++) {
        if (!strncmp(argv[i], "out=", 4)) {
            out = fopen(argv[i] + 4, "w");
            if (!out) {
                perror(argv[i] + 4);
                return -1;
            }
        } else if (!strncmp(argv[i], "hot=", 4)) {
            hot = strtoul(argv[i] + 4, NULL, 10);
        } else if (!strncmp(argv[i], "vms=", 4)) {
            vms = strtoul(argv[i] + 4, NULL, 10);
        } else {
            fprintf(stderr, "levels: unknown option %s\n", argv[i]);
            return -1;
        }
    }
    if (!out) {
        fprintf(stderr, "levels: needs out=FILE\n");
        return -1;
    }
    bytes = g_byte_array_new();
    inline_counts = info->system.max_vcpus == 1;
    if (inline_counts) {
        board = qemu_plugin_scoreboard_new(sizeof(Counts));
    }
    if (hot) {
        blocks = g_new0(Block, MAX_BLOCKS);
        block_of = g_hash_table_new(g_str_hash, g_str_equal);
    }
    qemu_plugin_register_vcpu_init_cb(id, find_registers);
    qemu_plugin_register_vcpu_tb_trans_cb(id, on_translation);
    qemu_plugin_register_atexit_cb(id, on_exit, NULL);
    return 0;
}
