/* What the verifier, the lowering, the interpreter and the two hosts (application, daemon) agree on.
 *
 * Host functions: everything a program can call, helpers with kernel numbers and kfuncs by name alike, has one
 * dense number here. A host supplies a table of sf_host_fn; the verifier knows the prototypes. The functions on maps
 * are the virtual machine's own: a host puts those of SF_VM_FUNCTIONS into its table, or others of the same meaning.
 *
 * Values that are no numbers: a map is the address of its struct sf_map (env->map[index]); a function whose address is
 * taken is opaque to the program and passed only to callx, bpf_loop() and bpf_for_each_map_elem(). */
#ifndef SHORTFUSE_VM_ABI_H
#define SHORTFUSE_VM_ABI_H

#include <stdint.h>

#include "shortfuse/policy.h"

#ifdef __cplusplus
extern "C" {
#endif

enum sf_host_id {
  SF_HOST_MAP_LOOKUP = 0, /* bpf_map_lookup_elem */
  SF_HOST_MAP_UPDATE,
  SF_HOST_MAP_DELETE,
  SF_HOST_KTIME,
  SF_HOST_PRANDOM,
  SF_HOST_PID_TGID,
  SF_HOST_UID_GID,
  SF_HOST_STRNCMP,
  SF_HOST_SERVE_ATTR,
  SF_HOST_SERVE_ENTRY,
  SF_HOST_SERVE_LINK,
  SF_HOST_SERVE_DATA,
  SF_HOST_SERVE_LISTING,
  SF_HOST_SERVE_XATTR,
  SF_HOST_SERVE_STATFS,
  SF_HOST_KEEP,
  SF_HOST_FORGET,
  SF_HOST_PREFETCH,
  SF_HOST_PATH,
  SF_HOST_ARG,
  SF_HOST_REPLY,
  SF_HOST_MAP_PUSH,
  SF_HOST_MAP_POP,
  SF_HOST_MAP_PEEK,
  SF_HOST_MAP_LOOKUP_PERCPU,
  SF_HOST_RINGBUF_OUTPUT,
  SF_HOST_RINGBUF_RESERVE,
  SF_HOST_RINGBUF_SUBMIT,
  SF_HOST_RINGBUF_DISCARD,
  SF_HOST_RINGBUF_QUERY,
  SF_HOST_CPU,            /* bpf_get_smp_processor_id: env->cpu */
  SF_HOST_MAP_STEP,       /* not for programs: the next element, for SF_HOST_FOR_EACH; see sf_vm_map_step() */
  SF_HOST_TAIL_CALL,      /* bpf_tail_call: 0: the run of this program ends here and env->next_program goes on */
  SF_HOST_SERVE_OPEN,
  /* Done by the interpreter and by machine code themselves; the host's entries are not looked at. */
  SF_HOST_LOOP,           /* bpf_loop */
  SF_HOST_FOR_EACH,       /* bpf_for_each_map_elem */
  /* For programs of `shortfuse trace`. */
  SF_HOST_COMM,           /* bpf_get_current_comm */
  SF_HOST_PROBE_READ,     /* bpf_probe_read_user */
  SF_HOST_PROBE_TEXT,     /* bpf_probe_read_user_str */
  SF_HOST_COUNT,
  SF_HOST_LIMIT = SF_HOST_COUNT + 64  /* numbers in between are functions of an application that embeds the machine */
};

/* Called by r1..r5 and the environment (not its host_state): what a host's table holds for these numbers. */
#define SF_VM_FUNCTIONS(X) \
  X(SF_HOST_MAP_LOOKUP, sf_vm_map_lookup) X(SF_HOST_MAP_UPDATE, sf_vm_map_update) \
  X(SF_HOST_MAP_DELETE, sf_vm_map_delete) X(SF_HOST_MAP_PUSH, sf_vm_map_push) X(SF_HOST_MAP_POP, sf_vm_map_pop) \
  X(SF_HOST_MAP_PEEK, sf_vm_map_peek) X(SF_HOST_MAP_LOOKUP_PERCPU, sf_vm_map_lookup_percpu) \
  X(SF_HOST_RINGBUF_OUTPUT, sf_vm_ringbuf_output) X(SF_HOST_RINGBUF_RESERVE, sf_vm_ringbuf_reserve) \
  X(SF_HOST_RINGBUF_SUBMIT, sf_vm_ringbuf_submit) X(SF_HOST_RINGBUF_DISCARD, sf_vm_ringbuf_discard) \
  X(SF_HOST_RINGBUF_QUERY, sf_vm_ringbuf_query) X(SF_HOST_CPU, sf_vm_cpu) X(SF_HOST_MAP_STEP, sf_vm_map_step) \
  X(SF_HOST_TAIL_CALL, sf_vm_tail_call) X(SF_HOST_STRNCMP, sf_vm_strncmp)

/* r1..r5 as the program passed them, then what the host gave to sf_policy_run() (functions of SF_VM_FUNCTIONS: the
 * environment). A host's table holds a function for every number below SF_HOST_COUNT but LOOP and FOR_EACH, also where
 * the verifier lets no program of the host call it: machine code does not ask. The functions of an application are as
 * many as `own_functions` says; a run that calls one behind them ends with SF_PASS. */
typedef uint64_t (*sf_host_fn)(uint64_t r1, uint64_t r2, uint64_t r3, uint64_t r4, uint64_t r5, void *host_state);

struct sf_map;   /* vm/map.h */
struct sf_image; /* vm/image.h */

/* One run's surroundings. The host fills the first part; what follows belongs to the virtual machine. */
struct sf_vm_env {
  const sf_host_fn *host;     /* [SF_HOST_COUNT] */
  void *host_state;
  void *const *map_value;     /* per map: where the values of an ARRAY (globals) begin, for direct addresses */
  struct sf_map *const *map;  /* per map of the image */
  uint32_t cpu;               /* which of a per-CPU map's values are ours: a number below SF_MAP_CPUS that no other run
                                 has at the same time; what bpf_get_smp_processor_id() says */
  uint32_t thread;            /* the thread's id, for the lock of a map's writers; 0: the kernel is asked for it */
  /* Instructions left, counted at jumps backwards, at ends of functions and per round of a callback, in the interpreter
     and in machine code alike; 0: the run ends with SF_PASS. Below 2^62. */
  uint64_t fuel;
  const struct sf_image *image;
  uint32_t slot;              /* that is run; a tail call leads to programs for the same one only */
  uint32_t next_program;      /* set by a tail call, index + 1 in the image: the program that goes on */
  uint32_t tail_calls;        /* made so far in this run */
  uint32_t own_functions;     /* how many the table holds behind SF_HOST_COUNT */
  uint32_t open_records;      /* reserved in ring buffers and not yet submitted or discarded */
};

/* A run has ended with records open, because its fuel was used up or a host function was not there: they are discarded,
 * so that whoever reads the ring buffers does not wait for them. sf_program_run() does so by itself. */
void sf_vm_discard_open(struct sf_vm_env *env);

#define SF_TAIL_CALLS_MAX 33        /* as in the kernel */
#define SF_LOOP_ROUNDS_MAX (1u << 23) /* of bpf_loop(): more answer -E2BIG, as in the kernel */

/* Whether a function gets the environment as its last argument, rather than the host's state. */
static inline int sf_is_vm_function(unsigned id) {
#define X(number, name) if (id == number) return 1;
  SF_VM_FUNCTIONS(X)
#undef X
  return 0;
}

#define X(number, name) \
  uint64_t name(uint64_t r1, uint64_t r2, uint64_t r3, uint64_t r4, uint64_t r5, void *env);
SF_VM_FUNCTIONS(X)
#undef X

/* Where a program is attached. slot = side base + operation. */
#define SF_SLOT_SYSCALL 0      /* + enum sf_op */
#define SF_SLOT_CALL 30        /* any system call, by `shortfuse trace`: the session says which, not the image */
#define SF_SLOT_CALL_EXIT 31
#define SF_SLOT_FUSE 32        /* + FUSE opcode (below 64) */
#define SF_SLOT_FUSE_EXIT 96   /* + FUSE opcode */
#define SF_SLOTS 160

/* Opcode number for a lower-case FUSE name ("lookup" -> 1), -1 if unknown; and back (NULL). Names of <linux/fuse.h>
 * without FUSE_, without underscores changed: "copy_file_range", "readdirplus", "rename2". */
int sf_fuse_opcode(const char *name);
const char *sf_fuse_opcode_name(unsigned opcode);

#ifdef __cplusplus
}
#endif
#endif
