/* What the verifier, the lowering, the interpreter and the two hosts (application, daemon) agree on.
 *
 * Host functions: everything a program can call, helpers with kernel numbers and kfuncs by name alike, has one
 * dense number here. A host supplies a table of sf_host_fn; the verifier knows the prototypes. */
#ifndef SHORTFUSE_VM_ABI_H
#define SHORTFUSE_VM_ABI_H

#include <stdint.h>

#include "shortfuse/policy.h"

#ifdef __cplusplus
extern "C" {
#endif

enum sf_host_id {
  SF_HOST_MAP_LOOKUP = 0, /* bpf_map_lookup_elem; r1 is the map's index */
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
  SF_HOST_COUNT
};

/* r1..r5 as the program passed them, then what the host gave to sf_policy_run(). A function that the host does not
 * offer is NULL in its table; the verifier has refused programs that could reach it. */
typedef uint64_t (*sf_host_fn)(uint64_t r1, uint64_t r2, uint64_t r3, uint64_t r4, uint64_t r5, void *host_state);

struct sf_vm_env {
  const sf_host_fn *host;     /* [SF_HOST_COUNT] */
  void *host_state;
  void *const *map_value;     /* per map: where the values of an ARRAY (globals) begin, for direct addresses */
  uint64_t
      fuel; /* instructions left for the interpreter and back edges left for an image; 0: the run ends with SF_PASS */
};

/* Where a program is attached. slot = side base + operation. */
#define SF_SLOT_SYSCALL 0      /* + enum sf_op */
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
