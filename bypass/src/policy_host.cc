// Host functions of the application's side. Serving functions answer the operation at hand and nothing else; shared
// maps are read-only here.
#include "policy_host.h"

#include "kernel.h"
#include "op.h"

namespace shortfuse::bypass {
namespace {

Op &op_of(void *state) { return *static_cast<Op *>(state); }

// What the walk found to be an error is the answer to every serving function of the operation.
uint64_t serve(Op &op, bool fits, bool (*function)(Op *)) {
  if (!fits) return SF_PASS;
  if (op.error != 0) return op.answer(op.error), SF_SERVED;
  return function(&op) ? SF_SERVED : SF_PASS;
}

uint64_t host_serve_attr(uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, void *state) {
  Op &op = op_of(state);
  return serve(op, op.kind == SF_OP_STAT || op.kind == SF_OP_ACCESS, serve_attr);
}
uint64_t host_serve_link(uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, void *state) {
  Op &op = op_of(state);
  return serve(op, op.kind == SF_OP_READLINK, serve_link);
}
uint64_t host_serve_data(uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, void *state) {
  Op &op = op_of(state);
  return serve(op, op.kind == SF_OP_READ, serve_data);
}
uint64_t host_serve_listing(uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, void *state) {
  Op &op = op_of(state);
  return serve(op, op.kind == SF_OP_READDIR, serve_listing);
}
uint64_t host_serve_xattr(uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, void *state) {
  Op &op = op_of(state);
  if (op.kind == SF_OP_LISTXATTR) return serve(op, true, serve_xlist);
  return serve(op, op.kind == SF_OP_GETXATTR, serve_xattr);
}
uint64_t host_serve_statfs(uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, void *state) {
  Op &op = op_of(state);
  return serve(op, op.kind == SF_OP_STATFS, serve_statfs);
}

uint64_t host_serve_open(uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, void *state) {
  Op &op = op_of(state);
  if (op.kind == SF_OP_OPEN && !op.may_open) return op.give_up(SF_MISS_UNSUPPORTED), SF_PASS;
  return serve(op, op.kind == SF_OP_OPEN, serve_open);
}

uint64_t host_pass(uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, void *) { return SF_PASS; }

uint64_t host_ktime(uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, void *) { return clock_ns(); }
uint64_t host_random(uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, void *) {
  uint64_t x = t.random;
  x ^= x << 13;
  x ^= x >> 7;
  x ^= x << 17;
  t.random = x;
  return x >> 32;
}
uint64_t host_pid_tgid(uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, void *) {
  return static_cast<uint64_t>(g.process->pid) << 32 | t.tid;
}
uint64_t host_uid_gid(uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, void *state) {
  const Creds *creds = op_of(state).creds;
  return static_cast<uint64_t>(creds->rgid) << 32 | creds->ruid;
}
struct Table {
  sf_host_fn fn[SF_HOST_COUNT];
  constexpr Table() : fn() {
    for (auto &f : fn) f = host_pass;
#define X(number, name) fn[number] = name;
    SF_VM_FUNCTIONS(X)
#undef X
    fn[SF_HOST_KTIME] = host_ktime;
    fn[SF_HOST_PRANDOM] = host_random;
    fn[SF_HOST_PID_TGID] = host_pid_tgid;
    fn[SF_HOST_UID_GID] = host_uid_gid;
    fn[SF_HOST_SERVE_ATTR] = host_serve_attr;
    fn[SF_HOST_SERVE_LINK] = host_serve_link;
    fn[SF_HOST_SERVE_DATA] = host_serve_data;
    fn[SF_HOST_SERVE_LISTING] = host_serve_listing;
    fn[SF_HOST_SERVE_XATTR] = host_serve_xattr;
    fn[SF_HOST_SERVE_STATFS] = host_serve_statfs;
    fn[SF_HOST_SERVE_OPEN] = host_serve_open;
  }
};
constexpr Table kTable;

}  // namespace

const sf_host_fn *host_functions() { return kTable.fn; }

}  // namespace shortfuse::bypass
