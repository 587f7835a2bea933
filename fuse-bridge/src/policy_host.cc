// What a program in the daemon can call: serving, keeping, looking.
//
// The verifier has checked types, sizes and which side may call what; memory arguments are valid for the sizes given.
// Every function gets the ProgramRun as its host state.
#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <random>

#include "bridge.h"

namespace shortfuse::bridge {
namespace {

ProgramRun &run_of(void *state) { return *static_cast<ProgramRun *>(state); }
uint64_t result(int value) { return static_cast<uint64_t>(static_cast<int64_t>(value)); }
void *pointer(uint64_t value) { return reinterpret_cast<void *>(value); }

uint64_t ktime(uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, void *) { return now_ns(); }

uint64_t prandom(uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, void *) {
  thread_local std::minstd_rand generator(static_cast<unsigned>(now_ns()));
  return static_cast<uint32_t>(generator() << 1 ^ generator() >> 7);
}

/// The caller's ids, not the daemon's: that is what a policy wants to know.
uint64_t pid_tgid(uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, void *state) {
  const uint64_t pid = run_of(state).request.header.pid;
  return pid << 32 | pid;
}

uint64_t uid_gid(uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, void *state) {
  const fuse_in_header &header = run_of(state).request.header;
  return static_cast<uint64_t>(header.gid) << 32 | header.uid;
}

template <sf_host_id What>
uint64_t serve(uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, void *state) {
  ProgramRun &run = run_of(state);
  if (run.probing || run.request.for_bridge || !run.nid) return SF_PASS;
  if (run.served) return SF_SERVED;
  run.served = run.bridge.serve(run, What);
  return run.served ? SF_SERVED : SF_PASS;
}

uint64_t keep(uint64_t, uint64_t ttl_ns, uint64_t negative_ttl_ns, uint64_t, uint64_t, void *state) {
  ProgramRun &run = run_of(state);
  if (run.keep_error) return result(run.keep_error);
  run.keep = true;
  run.ttl_ns = ttl_ns;
  run.negative_ttl_ns = negative_ttl_ns;
  return 0;
}

uint64_t forget(uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, void *state) {
  ProgramRun &run = run_of(state);
  if (!run.probing && run.nid) run.bridge.cache().drop_node(run.nid);
  return 0;
}

uint64_t prefetch(uint64_t, uint64_t offset, uint64_t length, uint64_t, uint64_t, void *state) {
  ProgramRun &run = run_of(state);
  if (run.probing || run.request.for_bridge || !run.nid || !run.policy.keeps_data()) return result(-EINVAL);
  run.bridge.fetcher().want({SF_HINT_DATA, run.nid, offset, length, {}});
  return 0;
}

bool names_an_entry(uint32_t opcode) {
  switch (opcode) {
    case FUSE_LOOKUP: case FUSE_MKNOD: case FUSE_MKDIR: case FUSE_SYMLINK: case FUSE_LINK: case FUSE_CREATE:
    case FUSE_UNLINK: case FUSE_RMDIR: case FUSE_RENAME: case FUSE_RENAME2:
      return true;
    default:
      return false;
  }
}

uint64_t path(uint64_t, uint64_t buffer, uint64_t size, uint64_t, uint64_t, void *state) {
  ProgramRun &run = run_of(state);
  char *out = static_cast<char *>(pointer(buffer));
  const auto room = static_cast<uint32_t>(size);
  if (room == 0) return result(-ENAMETOOLONG);
  out[0] = 0;
  if (!run.nid) return result(-ENOENT);
  auto found = names_an_entry(run.request.header.opcode) ? run.bridge.cache().path_of(run.nid, run.request.name)
                                                         : run.bridge.cache().path_of(run.nid);
  if (!found) return result(-ENOENT);
  if (found->size() >= room) return result(-ENAMETOOLONG);
  // The rest is zeroed: programs compare fixed-size buffers.
  std::memset(out, 0, room);
  std::memcpy(out, found->data(), found->size());
  return result(static_cast<int>(found->size()));
}

uint64_t copy_from(Bytes bytes, uint64_t offset, uint64_t buffer, uint64_t size) {
  const uint64_t length = static_cast<uint32_t>(size);
  const uint64_t from = static_cast<uint32_t>(offset);
  if (from > bytes.size() || bytes.size() - from < length) {
    std::memset(pointer(buffer), 0, length);
    return result(-EINVAL);
  }
  std::memcpy(pointer(buffer), bytes.data() + from, length);
  return 0;
}

uint64_t argument(uint64_t, uint64_t offset, uint64_t buffer, uint64_t size, uint64_t, void *state) {
  return copy_from(run_of(state).request.arguments, offset, buffer, size);
}

uint64_t reply(uint64_t, uint64_t offset, uint64_t buffer, uint64_t size, uint64_t, void *state) {
  return copy_from(run_of(state).reply, offset, buffer, size);
}

/// Replies that hold something the cache can keep.
bool keepable(uint32_t opcode) {
  switch (opcode) {
    case FUSE_LOOKUP: case FUSE_MKNOD: case FUSE_MKDIR: case FUSE_SYMLINK: case FUSE_LINK: case FUSE_CREATE:
    case FUSE_GETATTR: case FUSE_SETATTR: case FUSE_READLINK: case FUSE_READ: case FUSE_READDIR:
    case FUSE_READDIRPLUS: case FUSE_GETXATTR: case FUSE_LISTXATTR: case FUSE_STATFS: case FUSE_LSEEK:
    case FUSE_IOCTL:
      return true;
    default:
      return false;
  }
}

/// Of traces alone, whose programs the verifier lets nobody load here.
uint64_t of_traces(uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, void *) {
  return static_cast<uint64_t>(-int64_t{EOPNOTSUPP});
}

struct HostTable {
  sf_host_fn fn[SF_HOST_COUNT];
  bool has[SF_HOST_COUNT];  // beside it: compilers that sanitise do not compare a function's address in a constant
  constexpr HostTable() : fn(), has() {
#define X(number, name) set(number, name);
    SF_VM_FUNCTIONS(X)
#undef X
    set(SF_HOST_KTIME, ktime);
    set(SF_HOST_PRANDOM, prandom);
    set(SF_HOST_PID_TGID, pid_tgid);
    set(SF_HOST_UID_GID, uid_gid);
    set(SF_HOST_SERVE_ATTR, serve<SF_HOST_SERVE_ATTR>);
    set(SF_HOST_SERVE_ENTRY, serve<SF_HOST_SERVE_ENTRY>);
    set(SF_HOST_SERVE_LINK, serve<SF_HOST_SERVE_LINK>);
    set(SF_HOST_SERVE_DATA, serve<SF_HOST_SERVE_DATA>);
    set(SF_HOST_SERVE_LISTING, serve<SF_HOST_SERVE_LISTING>);
    set(SF_HOST_SERVE_XATTR, serve<SF_HOST_SERVE_XATTR>);
    set(SF_HOST_SERVE_STATFS, serve<SF_HOST_SERVE_STATFS>);
    set(SF_HOST_SERVE_OPEN, serve<SF_HOST_SERVE_OPEN>);  // of the application only: passes here
    set(SF_HOST_KEEP, keep);
    set(SF_HOST_FORGET, forget);
    set(SF_HOST_PREFETCH, prefetch);
    set(SF_HOST_PATH, path);
    set(SF_HOST_ARG, argument);
    set(SF_HOST_REPLY, reply);
    for (unsigned id : {SF_HOST_COMM, SF_HOST_PROBE_READ, SF_HOST_PROBE_TEXT}) set(id, of_traces);
  }
  constexpr void set(unsigned id, sf_host_fn function) {
    fn[id] = function;
    has[id] = true;
  }
};
constexpr HostTable kDaemonHost;

// Machine code calls what is there without asking (vm/abi.h).
constexpr bool is_whole(const HostTable &table) {
  for (unsigned id = 0; id < SF_HOST_COUNT; id++) {
    if (id != SF_HOST_LOOP && id != SF_HOST_FOR_EACH && !table.has[id]) return false;
  }
  return true;
}
static_assert(is_whole(kDaemonHost));

}  // namespace

int run_programs(ProgramRun &run, unsigned slot_base, int error) {
  const Request &request = run.request;
  sf_fuse_exit_ctx ctx{};
  ctx.req.size = slot_base == SF_SLOT_FUSE ? sizeof(sf_fuse_ctx) : sizeof(sf_fuse_exit_ctx);
  ctx.req.opcode = request.header.opcode;
  ctx.req.unique = request.header.unique;
  ctx.req.node = run.nid;
  ctx.req.nodeid = request.header.nodeid;
  ctx.req.uid = request.header.uid;
  ctx.req.gid = request.header.gid;
  ctx.req.pid = request.header.pid;
  ctx.req.flags = request.flags;
  ctx.req.offset = request.offset;
  ctx.req.length = request.length;
  ctx.req.arg_bytes = static_cast<uint32_t>(request.arguments.size());
  ctx.req.origin = request.for_bridge ? 1 : 0;
  ctx.reply_bytes = static_cast<uint32_t>(run.reply.size());
  ctx.error = error;
  if (slot_base == SF_SLOT_FUSE_EXIT && !keepable(request.header.opcode)) run.keep_error = -ENOTSUP;
  const CpuNumber cpu(run.bridge.cpu_numbers());
  sf_vm_env env{};
  env.cpu = cpu;
  env.thread = thread_number();
  env.host = kDaemonHost.fn;
  env.host_state = &run;
  env.map_value = run.policy.map_values();
  env.map = run.policy.map_handles();
  return sf_policy_run(run.policy.image(), slot_base + request.header.opcode, &ctx, &env);
}

}  // namespace shortfuse::bridge
