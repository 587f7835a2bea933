// What `shortfuse policy init` writes. @NAME@ and its like are replaced; policy_init.cc knows which.
#pragma once

namespace shortfuse::cli {

inline constexpr char kMakefile[] = R"(# make        @NAME@.bpf.o
# make test   verify it, and run its programs against invented operations
# Both know where shortfuse was when this was written; make SHORTFUSE=... INCLUDE=... says otherwise.
SHORTFUSE ?= @SHORTFUSE@
INCLUDE   ?= @INCLUDE@
CLANG     ?= $(firstword $(shell command -v clang-19) $(shell command -v clang) clang)

@NAME@.bpf.o: @NAME@.bpf.c Makefile
	$(CLANG) -target bpf -mcpu=v3 -O2 -g -Wall -I$(INCLUDE) -idirafter /usr/include/$(shell uname -m)-linux-gnu -c $< -o $@

.PHONY: test clean
test: @NAME@.bpf.o
	SHORTFUSE=$(SHORTFUSE) ./test.sh

clean:
	rm -f @NAME@.bpf.o
)";

inline constexpr char kReadme[] = R"(# @NAME@: a policy for shortfuse

@PURPOSE@

    make test                                                     # compile, verify, try its programs
    shortfuse mount -o bpftime=$PWD/@NAME@.bpf.o -- sshfs h:/d /mnt   # any libfuse 3 daemon
    passthroughfs /data /mnt -o bpftime=$PWD/@NAME@.bpf.o             # or one that links the bridge
    shortfuse swap /mnt $PWD/@NAME@.bpf.o                             # into a mount that is in use

`@NAME@.bpf.c` is the policy: C, one function per operation; `shortfuse/policy.h` says what it can see and do.
`test.sh` says what it must answer. `shortfuse policy check @NAME@.bpf.o` explains what the verifier refuses,
`shortfuse policy run @NAME@.bpf.o --section fuse/lookup --path a/b` shows every call that a program makes.
)";

inline constexpr char kTestBegin[] = R"(#!/bin/sh
# What @NAME@ must answer. `make test` runs this; it ends at the first answer that is another.
set -eu
policy=./@NAME@.bpf.o
: "${SHORTFUSE:=shortfuse}"

# expect TEXT ARGUMENT...: TEXT is in what `policy run ARGUMENT...` prints.
expect() {
  text=$1
  shift
  output=$("$SHORTFUSE" policy run "$policy" "$@")
  case $output in
    *"$text"*) line=$(printf '%s\n' "$output" | grep -F -m 1 -e "$text"); echo "ok      $* -> $line" ;;
    *) printf 'FAILED  %s: expected "%s" in\n%s\n' "$*" "$text" "$output"; exit 1 ;;
  esac
}

"$SHORTFUSE" policy check "$policy"
)";

// ---- cache

inline constexpr char kCacheSource[] = R"(
/* @NAME@: names and attributes are kept in shared memory, and answered from there. */
#include <shortfuse/policy.h>

#define SECOND 1000000000ull

/* How long a reply stays good. Changes through the mount end it at once; this bounds what others change behind it. */
const volatile u64 ttl_ns = 10 * SECOND;
const volatile u64 negative_ttl_ns = 2 * SECOND; /* of "no such file" */

/* In the application: a stat() or access() that the cache can answer does not leave the process. Where it cannot,
 * sf_serve_attr() says SF_PASS and the call takes its usual way. */
SEC("syscall/stat") int on_stat(struct sf_syscall_ctx *ctx) { return sf_serve_attr(ctx); }
SEC("syscall/access") int on_access(struct sf_syscall_ctx *ctx) { return sf_serve_attr(ctx); }

/* In the daemon, for everybody else: the same before the file system is asked. Requests of the bridge itself
 * (origin 1) are there to fill the cache, so they go on. */
SEC("fuse/lookup") int on_lookup(struct sf_fuse_ctx *ctx) { return ctx->origin ? SF_PASS : sf_serve_entry(ctx); }
SEC("fuse/getattr") int on_getattr(struct sf_fuse_ctx *ctx) { return ctx->origin ? SF_PASS : sf_serve_attr(ctx); }

/* When the reply leaves: keep it. */
#define KEEP(op) \
  SEC("fuse_exit/" #op) int keep_##op(struct sf_fuse_exit_ctx *ctx) { \
    sf_keep(ctx, ttl_ns, negative_ttl_ns); \
    return SF_PASS; \
  }
KEEP(lookup)
KEEP(getattr)
KEEP(setattr)
KEEP(create)
KEEP(mkdir)
KEEP(readdirplus)

char LICENSE[] SEC("license") = "GPL";
)";

inline constexpr char kCacheTest[] = R"(
expect 'syscall/stat: 1 (SF_SERVED' --section syscall/stat --ctx node=7
expect 'syscall/stat: 0 (SF_PASS' --section syscall/stat --ctx node=7 --miss
expect 'asked to serve' --section fuse/lookup
expect 'fuse/lookup: 0 (SF_PASS' --section fuse/lookup --ctx origin=1
expect 'would keep the reply: 10 s; what does not exist: 2 s' --section fuse_exit/lookup --ctx error=-2
)";

// ---- deny

// The example itself, so that a guard that somebody starts from has no gap that the example does not have.
inline constexpr char kDenySource[] =
#include "deny_source.inc"
    ;

inline constexpr char kDenyTest[] = R"(
expect 'fuse/lookup: -13 (denied: EACCES)' --section fuse/lookup --path secret
expect 'fuse/open: -13 (denied: EACCES)' --section fuse/open --path secret/below
expect 'fuse/open: -13 (denied: EACCES)' --section fuse/open --path private/key.pem
expect 'fuse/open: 0 (SF_PASS' --section fuse/open --path secretary
expect 'fuse/open: 0 (SF_PASS' --section fuse/open --path private/other
expect 'fuse/rename: -13 (denied: EACCES)' --section fuse/rename --path private
expect 'fuse/rename: 0 (SF_PASS' --section fuse/rename --path priv
expect 'fuse/lookup: -13 (denied: EACCES)' --section fuse/lookup
expect 'fuse/write: 0 (SF_PASS' --section fuse/write
)";

// ---- count

inline constexpr char kCountSource[] = R"(
/* @NAME@: counts the requests that reach the daemon, by operation and by user. */
#include <shortfuse/policy.h>

/* By opcode. Maps live in the daemon's shared memory; only programs in the daemon (fuse/, fuse_exit/) write them. */
struct {
  __uint(type, BPF_MAP_TYPE_ARRAY);
  __uint(max_entries, 64);
  __type(key, u32);
  __type(value, u64);
} by_operation SEC(".maps");

/* By user id, with the bytes asked for. A full map counts no further users, and loses nothing else. */
struct usage { u64 requests, bytes; };
struct {
  __uint(type, BPF_MAP_TYPE_HASH);
  __uint(max_entries, 1024);
  __type(key, u32);
  __type(value, struct usage);
} by_user SEC(".maps");

static __always_inline int count(struct sf_fuse_ctx *ctx) {
  u32 operation = ctx->opcode, user = ctx->uid;
  struct usage first = {1, ctx->length}, *usage;
  u64 *n = bpf_map_lookup_elem(&by_operation, &operation);

  if (n) __sync_fetch_and_add(n, 1);
  usage = bpf_map_lookup_elem(&by_user, &user);
  if (usage) {
    __sync_fetch_and_add(&usage->requests, 1);
    __sync_fetch_and_add(&usage->bytes, ctx->length);
  } else {
    bpf_map_update_elem(&by_user, &user, &first, BPF_NOEXIST);
  }
  return SF_PASS;
}

#define COUNT(op) SEC("fuse/" #op) int count_##op(struct sf_fuse_ctx *ctx) { return count(ctx); }
COUNT(lookup)
COUNT(getattr)
COUNT(open)
COUNT(read)
COUNT(write)
COUNT(opendir)
COUNT(readdir)
COUNT(readdirplus)
COUNT(unlink)

char LICENSE[] SEC("license") = "GPL";
)";

inline constexpr char kCountTest[] = R"(
expect 'by_operation[15] = 1   (was 0)' --section fuse/read --ctx uid=7 --ctx length=4096
expect 'by_user[7] = ' --section fuse/read --ctx uid=7 --ctx length=4096
expect 'fuse/read: 0 (SF_PASS' --section fuse/read
)";

}  // namespace shortfuse::cli
