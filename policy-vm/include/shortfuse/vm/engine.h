/* eBPF programs as plug-ins of any application: load, verify, compile, run.
 *
 *     struct request { uint32_t user; uint32_t method; uint64_t bytes; };
 *     struct sf_engine_options options = {.size = sizeof options, .context_bytes = sizeof(struct request)};
 *     sf_engine *engine = sf_engine_create(&options);
 *     if (sf_engine_load_file(engine, "limit.bpf.o") != 0) fprintf(stderr, "%s\n", sf_engine_error(engine));
 *     int limit = sf_engine_find_program(engine, "request");
 *     uint64_t verdict;
 *     sf_engine_run(engine, limit, &request, &verdict);
 *
 * Know before you start:
 *  - Programs are C, compiled by `clang -target bpf -mcpu=v3 -O2 -g` against <shortfuse/bpf.h>. -g is needed.
 *  - A program gets the address of your bytes, which it can read and not write, and has its stack (512 bytes), its
 *    maps and variables, helpers with the kernel's numbers and the functions that you add. It can touch nothing else
 *    and always ends: it is refused when it cannot be proved so.
 *  - The context lies at a multiple of 8 and does not change while a program reads it.
 *  - Machine code comes from libshortfuse-jit.so, which holds LLVM (36 MB mapped, 3 MB of its own, 4 ms to load);
 *    without it programs are interpreted.
 *  - Thread safety: sf_engine_run() and the functions on maps may be called by several threads at once. Per-CPU maps
 *    have one value for all of them. Everything else: by one thread, while none runs a program.
 *  - Nothing here throws or ends the process. Status: 0, or a negative errno, which says all that there is to say but
 *    where functions are added and objects loaded: there sf_engine_error() says why. */
#ifndef SHORTFUSE_VM_ENGINE_H
#define SHORTFUSE_VM_ENGINE_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define SF_ENGINE_API __attribute__((visibility("default")))

typedef struct sf_engine sf_engine;

enum sf_engine_code {
  SF_ENGINE_AUTO = 0,      /* machine code where it can be had, else the interpreter */
  SF_ENGINE_INTERPRET = 1,
  SF_ENGINE_COMPILE = 2    /* loading fails where there is no machine code */
};

struct sf_engine_options {
  uint32_t size;           /* sizeof(struct sf_engine_options): fields may be added */
  uint32_t context_bytes;  /* of what sf_engine_run() is given; 0: programs get none */
  uint32_t code;           /* enum sf_engine_code */
  uint32_t reserved;
  /* Types that programs' accesses by name (preserve_access_index, CO-RE) are fitted to: an eBPF object compiled from
   * the header with your context, or its section .BTF. Copied. NULL: such accesses are refused. */
  const void *types;
  size_t types_bytes;
};

/* NULL: no memory, or options that make no sense (types that cannot be read). */
SF_ENGINE_API sf_engine *sf_engine_create(const struct sf_engine_options *options);
/* Ends everything that came from it: images, maps. NULL does nothing. */
SF_ENGINE_API void sf_engine_destroy(sf_engine *engine);

/* ---- your functions. Before loading.
 *
 * `prototype` names the function and what it takes, at most five of
 *     ctx      the context, as the program received it
 *     scalar   a number
 *     in, size     readable memory and how many bytes it has (at least 1)
 *     inout, size  memory that you may write too; the program has initialised it
 *     string   a constant string with its NUL, in the program's read-only data
 * as in "log(string, scalar)" or "fetch(ctx, scalar, inout, size)". Arguments arrive as 64-bit numbers; addresses are
 * valid during the call. Programs declare it as `extern int log(const char *text, u64 n) __ksym;` (or returning a
 * 64-bit integer) and the declaration must fit. `state` is of sf_engine_set_state(). */
typedef uint64_t (*sf_engine_fn)(uint64_t r1, uint64_t r2, uint64_t r3, uint64_t r4, uint64_t r5, void *state);
/* -EINVAL: the prototype; -EEXIST: the name is taken; -ENOSPC: 64 are there; -EBUSY: programs are loaded. */
SF_ENGINE_API int sf_engine_add_function(sf_engine *engine, const char *prototype, sf_engine_fn fn);
SF_ENGINE_API void sf_engine_set_state(sf_engine *engine, void *state);

/* ---- loading: reads, links, verifies and compiles all programs of an object. A second object takes the place of the
 * first when it is accepted, with new maps; a refused one changes nothing. -EINVAL: refused; -ENOENT: the file cannot
 * be read. Any bytes are survived. */
SF_ENGINE_API int sf_engine_load_file(sf_engine *engine, const char *path);
/* `name` stands for it in messages. */
SF_ENGINE_API int sf_engine_load(sf_engine *engine, const void *object, size_t bytes, const char *name);

/* Why the last call that adds a function or loads an object failed, for people ("" if it did not); several lines where
 * a program was refused. Valid until the next of these calls. */
SF_ENGINE_API const char *sf_engine_error(const sf_engine *engine);
/* What the last load came to, whatever else was called since, as JSON:
 * {"accepted": true, "programs": [...], "maps": [...]} or
 * {"accepted": false, "code": ..., "category": "unsafe" | "could not prove" | "not supported here", "text": ...,
 * "detail": ..., "reason": ..., "needed": ..., "known": ..., "path": [{"file", "line", "source", "insn", "what"}, ...],
 * "file", "line", "source", "insn", "insn_text" (where they are known), "suggestion": ...}, as `shortfuse policy check
 * --json` has it; what does not apply is "". `code` is stable, "nothing-loaded" before the first load. Valid until the
 * next load or report. */
SF_ENGINE_API const char *sf_engine_report(sf_engine *engine);

/* ---- programs, numbered from 0. A section is any name in SEC("..."); more than one program may be in it. */
SF_ENGINE_API int sf_engine_programs(const sf_engine *engine);
/* The first whose section, else whose function, has this name; -ENOENT. */
SF_ENGINE_API int sf_engine_find_program(const sf_engine *engine, const char *name);
/* NULL: there is none of this number. */
SF_ENGINE_API const char *sf_engine_program_name(const sf_engine *engine, int program);
SF_ENGINE_API const char *sf_engine_program_section(const sf_engine *engine, int program);
/* 1: runs as machine code; 0: is interpreted. */
SF_ENGINE_API int sf_engine_compiled(const sf_engine *engine);

/* Runs it; r0 into *result (NULL: not wanted). -EINVAL: no such program, or a context that is missing or not aligned;
 * -ETIME: it used up its fuel (2^26, about 67 million, instructions) and was ended, *result is 0. */
SF_ENGINE_API int sf_engine_run(const sf_engine *engine, int program, const void *context, uint64_t *result);

/* ---- maps, numbered from 0; a program's variables are the maps "NAME.data", "NAME.bss" and "NAME.rodata", of one
 * element each. Errnos are the kernel's: -ENOENT, -EEXIST, -E2BIG (full; of a HASH also, until one is deleted: some 70
 * keys with the same place, which only keys that were chosen for it have), -EINVAL, -EOPNOTSUPP, -EPERM (constants).
 * Keys and values have the sizes of the map's declaration. */
struct sf_engine_map {
  uint32_t type;  /* enum bpf_map_type */
  uint32_t key_size, value_size, max_entries;
  const char *name;
};
SF_ENGINE_API int sf_engine_maps(const sf_engine *engine);
SF_ENGINE_API int sf_engine_find_map(const sf_engine *engine, const char *name);
SF_ENGINE_API int sf_engine_map_info(const sf_engine *engine, int map, struct sf_engine_map *info);
/* The value is copied out. */
SF_ENGINE_API int sf_engine_map_lookup(const sf_engine *engine, int map, const void *key, void *value);
/* flags: 0, 1 (the key must be new), 2 (it must be there). */
SF_ENGINE_API int sf_engine_map_update(sf_engine *engine, int map, const void *key, const void *value, uint64_t flags);
SF_ENGINE_API int sf_engine_map_delete(sf_engine *engine, int map, const void *key);
/* The key behind `key` in no particular order, the first for NULL or a key that is not there; -ENOENT at the end. */
SF_ENGINE_API int sf_engine_map_next(const sf_engine *engine, int map, const void *key, void *next);

/* ---- the image: bytecode and machine code of all programs in one sealed memfd, which other processes may map
 * (vm/image.h). The caller owns the descriptor. */
SF_ENGINE_API int sf_engine_publish(const sf_engine *engine);

#ifdef __cplusplus
}
#endif
#endif
