/* A policy image: what the daemon publishes and every process maps (read and execute), and how to run it.
 *
 * One file holds the chain of programs twice: as verified bytecode (for the interpreter) and, where it could be
 * lowered, as position-independent machine code without relocations. Freestanding: the preloaded library
 * contains this and the interpreter, nothing else of the virtual machine. */
#ifndef SHORTFUSE_VM_IMAGE_H
#define SHORTFUSE_VM_IMAGE_H

#include <stddef.h>
#include <stdint.h>

#include "shortfuse/vm/abi.h"
#include "shortfuse/vm/map.h"

#ifdef __cplusplus
extern "C" {
#endif

#define SF_IMAGE_MAGIC 0x31676d69667573ull
#define SF_IMAGE_FORMAT 2
#define SF_RUN_FUEL (1ull << 26)  /* instructions that one run of a program may take: 20 to 300 ms */
#define SF_IMAGE_PROGRAMS_MAX 256
#define SF_IMAGE_MAPS_MAX 64

struct sf_image_program {
  uint32_t slot;           /* SF_SLOT_* + operation: whose chain it is in, or, in none, whose tail calls reach it */
  uint32_t object;         /* position in the chain */
  uint32_t next;           /* index + 1 of the next program of this slot; 0: last */
  uint32_t code_offset;    /* of the entry in the image; 0: interpret */
  uint32_t insns_offset;   /* bytecode, struct bpf_insn */
  uint32_t insns;
  char name[32];
};

struct sf_image_map {
  uint32_t type, key_size, value_size, max_entries;
  uint32_t flags, object;  /* BPF_F_*; position in the chain */
  uint32_t pinning;        /* 1 (LIBBPF_PIN_BY_NAME): the contents survive a remount (bpf.h) */
  uint32_t extra;          /* map_extra: sf_map_shape.extra */
  char name[32];
};

static inline struct sf_map_shape sf_image_map_shape(const struct sf_image_map *map) {
  const struct sf_map_shape shape = {map->type, map->key_size, map->value_size, map->max_entries, map->extra};
  return shape;
}

struct sf_image {
  uint64_t magic;
  uint32_t format;
  uint32_t abi;            /* SF_ABI_VERSION */
  uint64_t image_bytes;
  uint64_t key;            /* sf_image_key(): of everything in it, and of the layouts that code relies on */
  uint32_t programs;
  uint32_t maps;
  uint32_t first[SF_SLOTS]; /* index + 1 of a slot's first program; 0: none */
  uint32_t code_offset, code_bytes; /* page-aligned; 0 bytes: no machine code */
  struct sf_image_map map[SF_IMAGE_MAPS_MAX];
  struct sf_image_program program[SF_IMAGE_PROGRAMS_MAX];
};

/* The signature of an entry in the code. */
typedef uint64_t (*sf_image_entry)(void *ctx, struct sf_vm_env *env);

/* 0 when `bytes` bytes at `image` are a well-formed image of this ABI, else -EINVAL (-ENOEXEC: other ABI). Checks
 * every offset; run it once after mapping. */
int sf_image_check(const void *image, size_t bytes);

/* Of a well-formed image. Different builds of shortfuse give different keys to the same bytes where machine code of one
 * would not do for the other; sf_image_check() answers -ENOEXEC then. */
uint64_t sf_image_key(const struct sf_image *image);

/* Runs the slot's chain until a verdict other than SF_PASS (all of it for SF_SLOT_FUSE_EXIT). SF_PASS if there is
 * none. The result is clamped: SF_PASS, SF_SERVED or [-4095, -1]; anything else counts as SF_PASS.
 * Thread-safe and async-signal-safe as far as the host functions are. Sets env->fuel itself. */
int sf_policy_run(const struct sf_image *image, unsigned slot, void *ctx, struct sf_vm_env *env);

/* Runs one program by its index, with those that it goes on to by tail calls. What it returns, not clamped. */
uint64_t sf_program_run(const struct sf_image *image, uint32_t index, void *ctx, struct sf_vm_env *env);

static inline int sf_image_has(const struct sf_image *image, unsigned slot) { return image->first[slot] != 0; }

/* The interpreter on raw verified instructions; r1 = ctx. Used by sf_policy_run and by tests. */
uint64_t sf_interpret(const void *insns, uint32_t count, void *ctx, struct sf_vm_env *env);

#ifdef __cplusplus
}
#endif
#endif
