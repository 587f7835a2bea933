// Everything a program can call: prototypes, and where each may be called. One table; linker (names, numbers, BTF),
// verifier (arguments, places) and interpreter (output buffers) read it.
#pragma once
#include <stdint.h>

#include "isa/call_cost.h"
#include "shortfuse/vm/abi.h"
#include "shortfuse/vm/map.h"

namespace shortfuse::vm {

// Operations that have a syscall/ side. The numbers are those of enum sf_op in metrics/ops.h, which is a format.
#define SF_SYSCALL_OPS(X) X(stat, 0) X(access, 1) X(readlink, 2) X(open, 3) X(read, 4) X(readdir, 5) \
  X(getxattr, 6) X(listxattr, 7) X(statfs, 8)

// Opcodes of FUSE by name, as in <linux/fuse.h>.
#define SF_FUSE_OPS(X) X(lookup, 1) X(forget, 2) X(getattr, 3) X(setattr, 4) X(readlink, 5) X(symlink, 6) \
  X(mknod, 8) X(mkdir, 9) X(unlink, 10) X(rmdir, 11) X(rename, 12) X(link, 13) X(open, 14) X(read, 15) \
  X(write, 16) X(statfs, 17) X(release, 18) X(fsync, 20) X(setxattr, 21) X(getxattr, 22) X(listxattr, 23) \
  X(removexattr, 24) X(flush, 25) X(init, 26) X(opendir, 27) X(readdir, 28) X(releasedir, 29) X(fsyncdir, 30) \
  X(getlk, 31) X(setlk, 32) X(setlkw, 33) X(access, 34) X(create, 35) X(interrupt, 36) X(bmap, 37) \
  X(destroy, 38) X(ioctl, 39) X(poll, 40) X(notify_reply, 41) X(batch_forget, 42) X(fallocate, 43) \
  X(readdirplus, 44) X(rename2, 45) X(lseek, 46) X(copy_file_range, 47) X(setupmapping, 48) \
  X(removemapping, 49) X(syncfs, 50) X(tmpfile, 51) X(statx, 52)

namespace syscall_op {
#define X(name, number) inline constexpr uint64_t name = 1ull << number;
SF_SYSCALL_OPS(X)
#undef X
}  // namespace syscall_op
namespace fuse_op {
#define X(name, number) inline constexpr uint64_t name = 1ull << number;
SF_FUSE_OPS(X)
#undef X
}  // namespace fuse_op

// Call, CallExit: of `shortfuse trace`.
enum class Side : uint8_t { Syscall, Fuse, FuseExit, Call, CallExit };

constexpr Side side_of_slot(unsigned slot) {
  if (slot == SF_SLOT_CALL) return Side::Call;
  if (slot == SF_SLOT_CALL_EXIT) return Side::CallExit;
  return slot < SF_SLOT_FUSE ? Side::Syscall : slot < SF_SLOT_FUSE_EXIT ? Side::Fuse : Side::FuseExit;
}
constexpr unsigned op_of_slot(unsigned slot) {
  return slot < SF_SLOT_FUSE ? slot : slot < SF_SLOT_FUSE_EXIT ? slot - SF_SLOT_FUSE : slot - SF_SLOT_FUSE_EXIT;
}

enum class Arg : uint8_t {
  None,
  Scalar,
  Context,      // the program's own context, unmoved
  Map,          // a map itself
  MapKey,       // key_size readable bytes
  MapValue,     // value_size readable bytes
  ReadMemory,   // as many readable bytes as the Size that follows says
  WriteMemory,  // the same, written; found zeroed
  InOutMemory,  // read and written, so initialised before
  Size,         // of the memory before it; at least 1
  ConstString,  // in read-only data, with its NUL
  MapValueOut,  // value_size bytes, written (of a BLOOM_FILTER: read)
  ConstSize,    // a known number, at least 1: of what is reserved
  RingRecord,   // what bpf_ringbuf_reserve() gave; given back by the call
  LoopBody,     // a function (u64 index, void *) returning 0 or 1
  MapBody,      // a function (map, key, value, void *) returning 0 or 1
  Anything,     // passed on to a body
};

enum class Result : uint8_t { Scalar, Scalar32, MapValueOrNull, RingRecordOrNull };

// Sets of map kinds, by their kernel numbers.
constexpr uint64_t map_kinds() { return 0; }
template <typename... More> constexpr uint64_t map_kinds(sf_map_kind first, More... more) {
  return 1ull << first | map_kinds(more...);
}
inline constexpr uint64_t kKeyedMaps =
    map_kinds(SF_MAP_HASH, SF_MAP_ARRAY, SF_MAP_PERCPU_HASH, SF_MAP_PERCPU_ARRAY, SF_MAP_LRU_HASH, SF_MAP_LPM_TRIE);
inline constexpr uint64_t kPushMaps = map_kinds(SF_MAP_QUEUE, SF_MAP_STACK, SF_MAP_BLOOM_FILTER);

struct HostFunction {
  sf_host_id id;
  int32_t kernel_number;  // of a helper; 0: a kfunc, resolved by name
  const char *name;
  Arg args[5];
  Result result;
  uint64_t on_syscall;    // operations in whose programs it may be called
  uint64_t on_fuse;
  uint64_t on_fuse_exit;
  const char *where;      // the same for people
  uint64_t maps = 0;      // kinds of maps that it takes
  bool writes_map = false;
};

inline constexpr uint64_t kAnywhere = ~0ull, kNowhere = 0;

inline constexpr HostFunction kHostFunctions[SF_HOST_COUNT] = {
  {SF_HOST_MAP_LOOKUP, 1, "bpf_map_lookup_elem", {Arg::Map, Arg::MapKey}, Result::MapValueOrNull,
   kAnywhere, kAnywhere, kAnywhere, "everywhere", kKeyedMaps | map_kinds(SF_MAP_ARRAY_OF_MAPS)},
  {SF_HOST_MAP_UPDATE, 2, "bpf_map_update_elem", {Arg::Map, Arg::MapKey, Arg::MapValue, Arg::Scalar}, Result::Scalar,
   kAnywhere, kAnywhere, kAnywhere, "everywhere", kKeyedMaps, true},
  {SF_HOST_MAP_DELETE, 3, "bpf_map_delete_elem", {Arg::Map, Arg::MapKey}, Result::Scalar,
   kAnywhere, kAnywhere, kAnywhere, "everywhere", kKeyedMaps, true},
  {SF_HOST_KTIME, 5, "bpf_ktime_get_ns", {}, Result::Scalar, kAnywhere, kAnywhere, kAnywhere, "everywhere"},
  {SF_HOST_PRANDOM, 7, "bpf_get_prandom_u32", {}, Result::Scalar, kAnywhere, kAnywhere, kAnywhere, "everywhere"},
  {SF_HOST_PID_TGID, 14, "bpf_get_current_pid_tgid", {}, Result::Scalar, kAnywhere, kAnywhere, kAnywhere,
   "everywhere"},
  {SF_HOST_UID_GID, 15, "bpf_get_current_uid_gid", {}, Result::Scalar, kAnywhere, kAnywhere, kAnywhere, "everywhere"},
  {SF_HOST_STRNCMP, 182, "bpf_strncmp", {Arg::ReadMemory, Arg::Size, Arg::ConstString}, Result::Scalar,
   kAnywhere, kAnywhere, kAnywhere, "everywhere"},
  {SF_HOST_SERVE_ATTR, 0, "sf_serve_attr", {Arg::Context}, Result::Scalar,
   syscall_op::stat | syscall_op::access, fuse_op::getattr | fuse_op::access, kNowhere,
   "syscall/stat, syscall/access, fuse/getattr and fuse/access"},
  {SF_HOST_SERVE_ENTRY, 0, "sf_serve_entry", {Arg::Context}, Result::Scalar,
   kNowhere, fuse_op::lookup, kNowhere, "fuse/lookup"},
  {SF_HOST_SERVE_LINK, 0, "sf_serve_link", {Arg::Context}, Result::Scalar,
   syscall_op::readlink, fuse_op::readlink, kNowhere, "syscall/readlink and fuse/readlink"},
  {SF_HOST_SERVE_DATA, 0, "sf_serve_data", {Arg::Context}, Result::Scalar,
   syscall_op::read, fuse_op::read, kNowhere, "syscall/read and fuse/read"},
  {SF_HOST_SERVE_LISTING, 0, "sf_serve_listing", {Arg::Context}, Result::Scalar,
   syscall_op::readdir, fuse_op::readdir, kNowhere, "syscall/readdir and fuse/readdir"},
  {SF_HOST_SERVE_XATTR, 0, "sf_serve_xattr", {Arg::Context}, Result::Scalar,
   syscall_op::getxattr | syscall_op::listxattr, fuse_op::getxattr | fuse_op::listxattr, kNowhere,
   "syscall/ and fuse/ getxattr and listxattr"},
  {SF_HOST_SERVE_STATFS, 0, "sf_serve_statfs", {Arg::Context}, Result::Scalar,
   syscall_op::statfs, fuse_op::statfs, kNowhere, "syscall/statfs and fuse/statfs"},
  {SF_HOST_KEEP, 0, "sf_keep", {Arg::Context, Arg::Scalar, Arg::Scalar}, Result::Scalar,
   kNowhere, kNowhere, kAnywhere, "fuse_exit/"},
  {SF_HOST_FORGET, 0, "sf_forget", {Arg::Context}, Result::Scalar,
   kNowhere, kAnywhere, kAnywhere, "fuse/ and fuse_exit/"},
  {SF_HOST_PREFETCH, 0, "sf_prefetch", {Arg::Context, Arg::Scalar, Arg::Scalar}, Result::Scalar,
   kNowhere, kAnywhere, kAnywhere, "fuse/ and fuse_exit/"},
  {SF_HOST_PATH, 0, "sf_path", {Arg::Context, Arg::WriteMemory, Arg::Size}, Result::Scalar,
   kNowhere, kAnywhere, kAnywhere, "fuse/ and fuse_exit/"},
  {SF_HOST_ARG, 0, "sf_arg", {Arg::Context, Arg::Scalar, Arg::WriteMemory, Arg::Size}, Result::Scalar,
   kNowhere, kAnywhere, kAnywhere, "fuse/ and fuse_exit/"},
  {SF_HOST_REPLY, 0, "sf_reply", {Arg::Context, Arg::Scalar, Arg::WriteMemory, Arg::Size}, Result::Scalar,
   kNowhere, kNowhere, kAnywhere, "fuse_exit/"},
  {SF_HOST_MAP_PUSH, 87, "bpf_map_push_elem", {Arg::Map, Arg::MapValue, Arg::Scalar}, Result::Scalar,
   kAnywhere, kAnywhere, kAnywhere, "everywhere", kPushMaps, true},
  {SF_HOST_MAP_POP, 88, "bpf_map_pop_elem", {Arg::Map, Arg::MapValueOut}, Result::Scalar,
   kAnywhere, kAnywhere, kAnywhere, "everywhere", map_kinds(SF_MAP_QUEUE, SF_MAP_STACK), true},
  {SF_HOST_MAP_PEEK, 89, "bpf_map_peek_elem", {Arg::Map, Arg::MapValueOut}, Result::Scalar,
   kAnywhere, kAnywhere, kAnywhere, "everywhere", kPushMaps},
  {SF_HOST_MAP_LOOKUP_PERCPU, 195, "bpf_map_lookup_percpu_elem", {Arg::Map, Arg::MapKey, Arg::Scalar},
   Result::MapValueOrNull, kAnywhere, kAnywhere, kAnywhere, "everywhere",
   map_kinds(SF_MAP_PERCPU_HASH, SF_MAP_PERCPU_ARRAY)},
  {SF_HOST_RINGBUF_OUTPUT, 130, "bpf_ringbuf_output", {Arg::Map, Arg::ReadMemory, Arg::Size, Arg::Scalar},
   Result::Scalar, kAnywhere, kAnywhere, kAnywhere, "everywhere", map_kinds(SF_MAP_RINGBUF), true},
  {SF_HOST_RINGBUF_RESERVE, 131, "bpf_ringbuf_reserve", {Arg::Map, Arg::ConstSize, Arg::Scalar},
   Result::RingRecordOrNull, kAnywhere, kAnywhere, kAnywhere, "everywhere", map_kinds(SF_MAP_RINGBUF), true},
  {SF_HOST_RINGBUF_SUBMIT, 132, "bpf_ringbuf_submit", {Arg::RingRecord, Arg::Scalar}, Result::Scalar,
   kAnywhere, kAnywhere, kAnywhere, "everywhere"},
  {SF_HOST_RINGBUF_DISCARD, 133, "bpf_ringbuf_discard", {Arg::RingRecord, Arg::Scalar}, Result::Scalar,
   kAnywhere, kAnywhere, kAnywhere, "everywhere"},
  {SF_HOST_RINGBUF_QUERY, 134, "bpf_ringbuf_query", {Arg::Map, Arg::Scalar}, Result::Scalar,
   kAnywhere, kAnywhere, kAnywhere, "everywhere", map_kinds(SF_MAP_RINGBUF)},
  {SF_HOST_CPU, 8, "bpf_get_smp_processor_id", {}, Result::Scalar32, kAnywhere, kAnywhere, kAnywhere, "everywhere"},
  {SF_HOST_MAP_STEP, 0, "", {}, Result::Scalar, kNowhere, kNowhere, kNowhere, "nowhere"},
  {SF_HOST_TAIL_CALL, 12, "bpf_tail_call", {Arg::Context, Arg::Map, Arg::Scalar}, Result::Scalar,
   kAnywhere, kAnywhere, kAnywhere, "everywhere", map_kinds(SF_MAP_PROG_ARRAY)},
  {SF_HOST_SERVE_OPEN, 0, "sf_serve_open", {Arg::Context}, Result::Scalar,
   syscall_op::open, kNowhere, kNowhere, "syscall/open"},
  {SF_HOST_LOOP, 181, "bpf_loop", {Arg::Scalar, Arg::LoopBody, Arg::Anything, Arg::Scalar}, Result::Scalar,
   kAnywhere, kAnywhere, kAnywhere, "everywhere"},
  {SF_HOST_FOR_EACH, 164, "bpf_for_each_map_elem", {Arg::Map, Arg::MapBody, Arg::Anything, Arg::Scalar},
   Result::Scalar, kAnywhere, kAnywhere, kAnywhere, "everywhere",
   map_kinds(SF_MAP_HASH, SF_MAP_ARRAY, SF_MAP_PERCPU_HASH, SF_MAP_PERCPU_ARRAY, SF_MAP_LRU_HASH)},
  {SF_HOST_COMM, 16, "bpf_get_current_comm", {Arg::WriteMemory, Arg::Size}, Result::Scalar,
   kNowhere, kNowhere, kNowhere, "programs of shortfuse trace"},
  {SF_HOST_PROBE_READ, 112, "bpf_probe_read_user", {Arg::WriteMemory, Arg::Size, Arg::Scalar}, Result::Scalar,
   kNowhere, kNowhere, kNowhere, "programs of shortfuse trace"},
  {SF_HOST_PROBE_TEXT, 114, "bpf_probe_read_user_str", {Arg::WriteMemory, Arg::Size, Arg::Scalar}, Result::Scalar,
   kNowhere, kNowhere, kNowhere, "programs of shortfuse trace"},
};

constexpr bool host_table_in_order() {
  for (int i = 0; i < SF_HOST_COUNT; i++) {
    if (kHostFunctions[i].id != i) return false;
  }
  return true;
}
static_assert(host_table_in_order());

constexpr bool callable_from(const HostFunction &f, unsigned slot) {
  uint64_t bit = 1ull << op_of_slot(slot);
  switch (side_of_slot(slot)) {
    case Side::Syscall: return f.on_syscall & bit;
    case Side::Fuse: return f.on_fuse & bit;
    case Side::FuseExit: return f.on_fuse_exit & bit;
    case Side::Call: case Side::CallExit: return f.kernel_number != 0;  // nothing that is about a mount
  }
  return false;
}

// The registers that hold a function's output buffer and its size; {0, 0}: it has none. The virtual machine zeroes
// the buffer before the call, so that a program never reads what a function left unwritten.
struct OutputBuffer { uint8_t pointer, size; };
struct OutputBuffers { OutputBuffer of[SF_HOST_COUNT]; };

constexpr OutputBuffers make_output_buffers() {
  OutputBuffers t{};
  for (int i = 0; i < SF_HOST_COUNT; i++) {
    for (uint8_t a = 0; a < 4; a++) {
      if (kHostFunctions[i].args[a] == Arg::WriteMemory) {
        t.of[i] = {static_cast<uint8_t>(a + 1), static_cast<uint8_t>(a + 2)};
      }
    }
  }
  return t;
}
inline constexpr OutputBuffers kOutputBuffers = make_output_buffers();
// What a call is paid for by (call_cost.h).
struct HostCost {
  uint8_t size = 0;                 // the register of a buffer's size; 0: none
  bool key = false, value = false;  // of the map in r1
  uint32_t always = 0;
  constexpr bool of_map() const { return key || value; }
};
constexpr HostCost host_cost_of(uint32_t id) {
  HostCost cost;
  if (id >= SF_HOST_COUNT) return cost;
  for (uint8_t a = 0; a < 5; a++) {
    const Arg arg = kHostFunctions[id].args[a];
    if (arg == Arg::Size) cost.size = static_cast<uint8_t>(a + 1);
    cost.key |= arg == Arg::MapKey;
    cost.value |= arg == Arg::MapValue || arg == Arg::MapValueOut;
    if (arg == Arg::Context && kHostFunctions[id].kernel_number == 0) cost.always = kPaidForHostWork;
  }
  if (id == SF_HOST_UID_GID || id == SF_HOST_COMM) cost.always = kPaidForSystemCall;
  if (id == SF_HOST_PROBE_READ || id == SF_HOST_PROBE_TEXT) cost.always = kPaidForFault;
  return cost;
}
constexpr OutputBuffer output_buffer_of(uint32_t id) {
  return id < SF_HOST_COUNT ? kOutputBuffers.of[id] : OutputBuffer{0, 0};
}

}  // namespace shortfuse::vm
