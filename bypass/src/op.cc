// From a prepared operation to its answer.
#include "op.h"

#include "count.h"
#include "hints.h"
#include "kernel.h"
#include "opens.h"
#include "policy_host.h"

namespace shortfuse::bypass {

bool Op::missing(sf_find find, sf_miss absent, uint8_t kind_of_wish, uint64_t wish_nid, uint64_t wish_offset,
                 uint64_t wish_size) {
  miss = miss_of(find, absent);
  unmapped = find == SF_FIND_UNMAPPED;
  wish->kind = find == SF_FIND_BUSY ? 0 : kind_of_wish;
  wish->nid = wish_nid;
  wish->offset = wish_offset;
  wish->size = wish_size;
  wish->name_len = 0;
  return false;
}

bool Op::need_attr() {
  if (have_attr) return true;
  sf_find find = sf_find_attr(&mount->view, nid, &moment, &attr);
  if (find != SF_FIND_OK) return missing(find, SF_MISS_ATTR, SF_HINT_ATTR, nid);
  have_attr = true;
  return true;
}

bool Op::need_contents(sf_miss absent, uint8_t kind_of_wish) {
  if (attr.flags & SF_RECF_WRITER) return give_up(SF_MISS_WRITER);
  if (attr.cid == 0) return missing(SF_FIND_ABSENT, absent, kind_of_wish, nid, offset, length);
  return true;
}

// It may be one whose contents only the file system knows (direct I/O): then no page of it is ever kept.
bool Op::need_emptiness() {
  unsigned char none;
  uint32_t bytes = 0;
  const sf_find find = sf_find_data(&mount->view, attr.cid, 0, 0, sizeof none, &none, &bytes);
  if (find != SF_FIND_OK) return missing(find, SF_MISS_DATA, SF_HINT_DATA, nid, 0, SF_PAGE_BYTES);
  return bytes == 0 || give_up(SF_MISS_UNSUPPORTED);
}

// Maps of this process alone are written by one run per lane at a time, and belong to a session. Else the policy is
// passed by: for a thread that found no lane of its own (more than SF_LANES - 1 are in the mount), in a signal handler
// that interrupted a call, and after a fork until the child has its own.
static bool may_write_own_maps(Op *op) {
  if (op->shared_lane || t.stays_at_call != 0) return false;
  const bool ours = op->policy->serial == t.lane[index_of(*op->mount)].serial;
  op->unmapped = op->unmapped || !ours;
  return ours;
}

bool prepare(Op *op) {
  count_start(op);
  op->policy = policy_of(*op->mount);
  if (op->policy == nullptr || !sf_image_has(op->policy->image, SF_SLOT_SYSCALL + op->kind)) {
    return op->give_up(SF_MISS_NO_POLICY);
  }
  if (op->policy->own_maps != 0 && !may_write_own_maps(op)) return op->give_up(SF_MISS_NO_POLICY);
  const sf_segment_header *header = op->mount->view.header;
  op->flags_of_mount = flags_of(*op->mount);
  op->creds = &creds_now();
  if (!op->creds->known) return op->give_up(SF_MISS_PERMISSION);
  if (!may_enter(*op->creds, op->flags_of_mount, header->owner_uid, header->owner_gid)) {
    return op->give_up(SF_MISS_PERMISSION);
  }
  // Where the kernel leaves permissions to the file system, only that knows who may have which answer.
  if (op->flags_of_mount & SF_MNT_ALLOW_OTHER && !(op->flags_of_mount & SF_MNT_DEFAULT_PERMISSIONS) &&
      op->creds->fsuid != op->mount->peer_uid) {
    return op->give_up(SF_MISS_PERMISSION);
  }
  return true;
}

// What was looked up by descriptor or relative to the working directory still is what it was.
static bool still_valid(const Op &op) {
  if (op.file && !op.file.same()) return false;
  return op.cwd.version == 0 || cwd_same(op.cwd);
}

bool run_policy(Op *op, long *result) {
  sf_syscall_ctx ctx = {};
  ctx.size = sizeof ctx;
  ctx.op = op->kind;
  ctx.node = op->nid;
  ctx.offset = op->offset;
  ctx.length = op->length;
  ctx.flags = op->flags;
  ctx.pid = g.process->pid;
  ctx.tid = t.tid;
  ctx.uid = op->creds->fsuid;
  ctx.gid = op->creds->fsgid;
  sf_vm_env env = {};
  env.host = host_functions();
  env.host_state = op;
  env.map_value = op->policy->values;
  env.map = op->policy->handles;
  env.cpu = t.lane[index_of(*op->mount)].cpu;
  env.thread = t.tid;
  const sf_call *outer = t.in_policy;
  t.in_policy = op->call;
  __atomic_signal_fence(__ATOMIC_SEQ_CST);
  int verdict = sf_policy_run(op->policy->image, SF_SLOT_SYSCALL + op->kind, &ctx, &env);
  __atomic_signal_fence(__ATOMIC_SEQ_CST);
  t.in_policy = outer;
  if (verdict < 0) {
    op->served = false;
    count_denied(*op);
    *result = verdict;
    return true;
  }
  if (verdict != SF_SERVED || !op->served) {
    // Served and yet passed, or nothing tried: it was the policy's will.
    if (op->served || op->miss == SF_MISS_NONE) op->give_up(SF_MISS_POLICY);
    return false;
  }
  if (!still_valid(*op)) return op->give_up(SF_MISS_BUSY);
  *result = op->value;
  return true;
}

static void settle_miss(Op *op, uint64_t ns) {
  count_missed(*op, ns);
  if (op->unmapped) refresh(op->mount);
  if (op->wish != nullptr && op->miss != SF_MISS_POLICY && op->miss != SF_MISS_NO_POLICY)
    leave_hint(op->mount, *op->wish);
}

long fall_back(Op *op, const sf_call &instead) {
  uint64_t start = clock_ns();
  int unreal = make_real(op->file);
  // Closed meanwhile, or its number another's?
  if (unreal == 0 && op->file && !op->file.same()) unreal = let_kernel_see(static_cast<int>(instead.arg[0]));
  long result = unreal != 0 ? unreal : make_call(instead);
  settle_miss(op, clock_ns() - start);
  return result;
}

long fall_back(Op *op) { return fall_back(op, *op->call); }

}  // namespace shortfuse::bypass
