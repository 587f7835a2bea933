/* The loaded modules whose text is patched: libc, the dynamic linker, and the helpers of older C libraries. */
#ifndef SHORTFUSE_HOOK_MODULES_H
#define SHORTFUSE_HOOK_MODULES_H

#include <stddef.h>
#include <stdint.h>

#define SF_MODULES_MAX 8
#define SF_BUILD_ID_MAX 32
#define SF_MORE_TEXTS 3
#define SF_DATAS 6

struct sf_module {
  uint64_t base;                /* what the module's own addresses are relative to */
  const char *name;             /* last part of the path; points into the dynamic linker's memory */
  uint64_t text, text_end;      /* the first executable segment, absolute */
  struct {
    uint64_t start, end;
  } more_text[SF_MORE_TEXTS];   /* the others, which few have (post-link optimisers make them) */
  uint32_t more_texts;          /* above SF_MORE_TEXTS: as many were left out */
  struct {
    uint64_t start, end;
  } data[SF_DATAS];             /* segments that are not executable, as far as the file fills them */
  uint32_t datas;               /* above SF_DATAS: as many were left out */
  const uint8_t *eh_frame_hdr;  /* NULL: none */
  size_t eh_frame_hdr_bytes;
  uint64_t image_end;           /* of the last segment, absolute */
  uint8_t build_id[SF_BUILD_ID_MAX];
  uint32_t build_id_bytes;      /* 0: none */
  const uint64_t *dynamic;      /* its dynamic section, pairs of tag and value */
};

/* What the kernel told the process at its start. */
struct sf_auxv {
  uint64_t phdr, phnum, page_size, secure, vdso, base;
  const char *executed;  /* the path that was executed; NULL: not known */
};

/* Reads the vector behind envp. Returns 0, or -1 when there is none (then nothing may be assumed). */
int sf_auxv_read(char **envp, struct sf_auxv *auxv);

/* Finds the modules to patch, libc first. Returns how many, or -1 when the dynamic linker's list cannot be read. */
int sf_modules_find(const struct sf_auxv *auxv, struct sf_module *modules);

/* Every module that is loaded, of all namespaces, with the main program; not the kernel's own. Returns 0, or -1 when
 * the list cannot be read now: the dynamic linker is changing it. `visit` returns 0 to go on. */
int sf_modules_visit(const struct sf_auxv *auxv, int (*visit)(const struct sf_module *module, void *argument),
                     void *argument);

/* Whether the main program brings a runtime that makes system calls from its own text (Go): what it does with
 * descriptors is not seen here. */
int sf_program_has_raw_calls(const struct sf_auxv *auxv);

/* The value of a one-byte variable that the module exports, or -1. */
int sf_module_byte(const struct sf_module *module, const char *symbol);

#endif
