#include "fixture.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/sysmacros.h>
#include <sys/syscall.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <condition_variable>
#include <filesystem>
#include <fstream>
#include <mutex>
#include <semaphore>
#include <span>
#include <stdexcept>

#include "attach.h"
#include "process.h"
#include "shortfuse/bypass/syscalls.h"

namespace shortfuse::bypass {

struct OwnedPolicy {
  std::vector<char> image;
  Policy policy = {};
};

static const std::set<uint64_t> *known_inodes;
static uint64_t root_inode, root_device;

static bool identify_by_inode(int fd, Identity *out) {
  struct ::stat st;
  int result = fd == AT_FDCWD ? ::stat(".", &st) : ::fstat(fd, &st);
  if (result != 0 || known_inodes == nullptr || st.st_dev != root_device) return false;
  if (known_inodes->count(st.st_ino) == 0) return false;
  out->mount = {&mounts[0], mounts[0].serial};
  out->nodeid = st.st_ino == root_inode ? 1 : st.st_ino;
  return state_of(mounts[0]) == MountState::Attached;
}

Tree::Tree(uint32_t mount_flags) : flags_(mount_flags) {
  sf_bypass_start(environ, getauxval(AT_SYSINFO_EHDR));
  char name[] = "/tmp/bypass-test-XXXXXX";
  if (mkdtemp(name) == nullptr) throw std::runtime_error("mkdtemp");
  root_ = std::filesystem::canonical(name);
  chmod(root_.c_str(), 0755);
}

Tree::~Tree() {
  detach();
  delete static_cast<OwnedPolicy *>(policy_);
  std::filesystem::remove_all(root_);
}

void Tree::dir(const std::string &relative, unsigned mode) {
  mkdir(path(relative).c_str(), 0755);
  chmod(path(relative).c_str(), mode);
}
void Tree::file(const std::string &relative, const std::string &bytes, unsigned mode) {
  std::ofstream(path(relative)) << bytes;
  chmod(path(relative).c_str(), mode);
}
void Tree::link(const std::string &relative, const std::string &target) {
  if (symlink(target.c_str(), path(relative).c_str()) != 0) throw std::runtime_error("symlink " + relative);
}
void Tree::give(const std::string &relative, uid_t uid, gid_t gid) {
  if (lchown(path(relative).c_str(), uid, gid) != 0) throw std::runtime_error("chown " + relative);
}

static fuse_attr attr_of(const std::string &path) {
  struct ::stat st;
  if (lstat(path.c_str(), &st) != 0) throw std::runtime_error("lstat " + path);
  fuse_attr a = {};
  a.ino = st.st_ino;
  a.size = static_cast<uint64_t>(st.st_size);
  a.blocks = static_cast<uint64_t>(st.st_blocks);
  a.atime = static_cast<uint64_t>(st.st_atim.tv_sec);
  a.mtime = static_cast<uint64_t>(st.st_mtim.tv_sec);
  a.ctime = static_cast<uint64_t>(st.st_ctim.tv_sec);
  a.atimensec = static_cast<uint32_t>(st.st_atim.tv_nsec);
  a.mtimensec = static_cast<uint32_t>(st.st_mtim.tv_nsec);
  a.ctimensec = static_cast<uint32_t>(st.st_ctim.tv_nsec);
  a.mode = st.st_mode;
  a.nlink = static_cast<uint32_t>(st.st_nlink);
  a.uid = st.st_uid;
  a.gid = st.st_gid;
  a.rdev = static_cast<uint32_t>(st.st_rdev);
  a.blksize = static_cast<uint32_t>(st.st_blksize);
  return a;
}

static std::vector<std::byte> listing_of(const std::string &path) {
  std::vector<std::byte> all;
  int fd = open(path.c_str(), O_RDONLY | O_DIRECTORY);
  char buffer[32768];
  for (long n; (n = syscall(SYS_getdents64, fd, buffer, sizeof buffer)) > 0;) {
    for (long at_byte = 0; at_byte < n;) {  // records have zeroes behind the name, the kernel has what was there
      auto *entry = reinterpret_cast<struct ::dirent64 *>(buffer + at_byte);
      char *end = entry->d_name + strlen(entry->d_name);
      at_byte += entry->d_reclen;
      memset(end, 0, static_cast<size_t>(buffer + at_byte - end));
    }
    auto *at = reinterpret_cast<std::byte *>(buffer);
    all.insert(all.end(), at, at + n);
  }
  close(fd);
  return all;
}

static void fill_xattrs(cache::Cache &cache, cache::Moment at, const std::string &path, cache::Nid nid) {
  char list[4096], value[4096];
  ssize_t n = llistxattr(path.c_str(), list, sizeof list);
  if (n < 0) return;
  cache.fill_xlist(at, nid, std::as_bytes(std::span(list, static_cast<size_t>(n))));
  for (char *name = list; name < list + n; name += strlen(name) + 1) {
    ssize_t size = lgetxattr(path.c_str(), name, value, sizeof value);
    if (size >= 0) cache.fill_xattr(at, nid, name, std::as_bytes(std::span(value, static_cast<size_t>(size))), 0);
  }
  for (const char *absent :
       {"user.absent", "trusted.absent", "security.capability", "security.selinux", "system.posix_acl_access"}) {
    if (lgetxattr(path.c_str(), absent, value, sizeof value) < 0 && errno == ENODATA) {
      cache.fill_xattr(at, nid, absent, {}, -ENODATA);
    }
  }
}

void Tree::fill(const std::string &path, cache::Nid nid, cache::Nid parent, const std::string &name) {
  fuse_attr attr = attr_of(path);
  cache::Cache &c = *cache_;
  bool directory = S_ISDIR(attr.mode);
  inodes_.insert(attr.ino);
  if (nid == 0) {
    nid = c.learn(attr.ino, parent, name, directory, cache::Holder::Kernel);
    c.fill_dentry(c.moment(), parent, name, nid, cache::kNever);
  }
  c.fill_attr(c.moment(), nid, attr, cache::kNever);
  auto at = c.moment();  // contents are of requests after the attributes
  fill_xattrs(c, at, path, nid);
  if (S_ISLNK(attr.mode)) c.fill_link(at, nid, std::filesystem::read_symlink(path).string());
  if (S_ISREG(attr.mode) && attr.size != 0) {
    std::ifstream in(path, std::ios::binary);
    std::string bytes((std::istreambuf_iterator<char>(in)), {});
    c.fill_data(at, nid, 0, std::as_bytes(std::span(bytes.data(), bytes.size())), true);
  }
  if (!directory) return;
  auto listing = listing_of(path);
  c.fill_listing(at, nid, listing);
  for (const auto &missing : negative_) {
    if (!std::filesystem::exists(std::filesystem::symlink_status(path + "/" + missing))) {
      c.fill_dentry(at, nid, missing, 0, cache::kNever);
    }
  }
  std::vector<std::string> children;
  for (const auto &entry : std::filesystem::directory_iterator(path)) children.push_back(entry.path().filename());
  for (const auto &child : children) fill(path + "/" + child, 0, nid, child);
}

static RootFacts facts_of(const std::string &root) {
  struct ::statx sx;
  struct ::statfs fs;
  ::statx(AT_FDCWD, root.c_str(), 0, STATX_BASIC_STATS | STATX_MNT_ID, &sx);
  ::statfs(root.c_str(), &fs);
  RootFacts facts = {};
  facts.dev = makedev(sx.stx_dev_major, sx.stx_dev_minor);
  facts.dev_major = sx.stx_dev_major;
  facts.dev_minor = sx.stx_dev_minor;
  facts.stx_mask = sx.stx_mask;
  facts.blksize = sx.stx_blksize;
  facts.attributes = sx.stx_attributes & ~static_cast<uint64_t>(STATX_ATTR_MOUNT_ROOT);
  facts.attributes_mask = sx.stx_attributes_mask;
  facts.mnt_id = sx.stx_mnt_id;
  facts.statfs_type = static_cast<uint64_t>(fs.f_type);
  facts.statfs_flags = static_cast<uint64_t>(fs.f_flags);
  memcpy(&facts.fsid, &fs.f_fsid, sizeof facts.fsid);
  return facts;
}

static fuse_kstatfs statfs_of(const std::string &root) {
  struct ::statfs fs;
  ::statfs(root.c_str(), &fs);
  fuse_kstatfs s = {};
  s.blocks = fs.f_blocks;
  s.bfree = fs.f_bfree;
  s.bavail = fs.f_bavail;
  s.files = fs.f_files;
  s.ffree = fs.f_ffree;
  s.bsize = static_cast<uint32_t>(fs.f_bsize);
  s.namelen = static_cast<uint32_t>(fs.f_namelen);
  s.frsize = static_cast<uint32_t>(fs.f_frsize);
  return s;
}

void Tree::attach(const std::vector<std::string> &negative) {
  negative_ = negative;
  auto made = cache::Cache::create({.budget_bytes = 64ull << 20});
  if (!made) throw std::runtime_error(made.error());
  cache_ = std::move(*made);
  fuse_attr root_attr = attr_of(root_);
  cache_->learn(1, 0, "", true, cache::Holder::Kernel);
  fill(root_, SF_NID_ROOT, 0, "");
  cache_->fill_statfs(cache_->moment(), statfs_of(root_), cache::kNever);
  sf_segment_header *header = cache_->header();
  header->owner_uid = getuid();
  header->owner_gid = getgid();
  header->mount_flags = flags_;
  header->mount_epoch = 1;
  header->policy_epoch = 1;
  header->state = SF_SEG_SERVING;
  // Held by a thread that ends before the cache does: a thread keeps a list of such mutexes.
  std::binary_semaphore held{0};
  liveness_ = std::jthread([this, &held](std::stop_token stop) {
    cache_->hold_liveness();
    held.release();
    std::mutex never;
    std::unique_lock lock(never);
    std::condition_variable_any().wait(lock, stop, [] { return false; });
  });
  held.acquire();
  g.initial_user_ns = true;
  known_inodes = &inodes_;
  root_inode = root_attr.ino;
  struct ::stat st;
  ::stat(root_.c_str(), &st);
  root_device = st.st_dev;
  identify_for_test = identify_by_inode;
  mount_ = adopt_for_test(cache_->view(), root_.c_str(), facts_of(root_), nullptr);
  policy({SF_OP_STAT, SF_OP_ACCESS, SF_OP_READLINK, SF_OP_READ, SF_OP_READDIR, SF_OP_GETXATTR, SF_OP_LISTXATTR,
          SF_OP_STATFS});
}

void Tree::detach() {
  if (mount_ == nullptr) return;
  drop_for_test(static_cast<Mount *>(mount_));
  mount_ = nullptr;
  known_inodes = nullptr;
  inodes_.clear();
  liveness_ = {};
  cache_.reset();
}

cache::Nid Tree::nid(const std::string &relative) const {
  struct ::stat st;
  if (lstat(path(relative).c_str(), &st) != 0) return 0;
  return relative.empty() ? SF_NID_ROOT : cache_->nid_of(st.st_ino);
}

static int server_of(sf_op op) {
  switch (op) {
    case SF_OP_READLINK: return SF_HOST_SERVE_LINK;
    case SF_OP_READ: return SF_HOST_SERVE_DATA;
    case SF_OP_READDIR: return SF_HOST_SERVE_LISTING;
    case SF_OP_GETXATTR:
    case SF_OP_LISTXATTR: return SF_HOST_SERVE_XATTR;
    case SF_OP_STATFS: return SF_HOST_SERVE_STATFS;
    case SF_OP_OPEN: return SF_HOST_SERVE_OPEN;
    default: return SF_HOST_SERVE_ATTR;
  }
}

std::vector<char> make_image(const std::vector<sf_op> &ops, int verdict) {
  size_t code = sizeof(sf_image);
  std::vector<char> bytes(code + ops.size() * 2 * sizeof(bpf_insn));
  auto *image = reinterpret_cast<sf_image *>(bytes.data());
  image->magic = SF_IMAGE_MAGIC;
  image->format = SF_IMAGE_FORMAT;
  image->abi = SF_ABI_VERSION;
  image->image_bytes = bytes.size();
  for (sf_op op : ops) {
    sf_image_program &p = image->program[image->programs];
    p.slot = SF_SLOT_SYSCALL + op;
    p.insns_offset = static_cast<uint32_t>(code);
    p.insns = 2;
    bpf_insn insns[2] = {};
    if (verdict != 0) {
      insns[0].code = BPF_ALU64 | BPF_MOV | BPF_K;
      insns[0].dst_reg = BPF_REG_0;
      insns[0].imm = verdict;
    } else {
      insns[0].code = BPF_JMP | BPF_CALL;
      insns[0].imm = server_of(op);
    }
    insns[1].code = BPF_JMP | BPF_EXIT;
    memcpy(bytes.data() + code, insns, sizeof insns);
    code += sizeof insns;
    image->first[p.slot] = ++image->programs;
  }
  image->key = sf_image_key(image);
  return bytes;
}

void Tree::policy(const std::vector<sf_op> &ops, int verdict) {
  auto *fresh = new OwnedPolicy{make_image(ops, verdict)};
  fresh->policy.image = reinterpret_cast<const sf_image *>(fresh->image.data());
  fresh->policy.image_bytes = fresh->image.size();
  fresh->policy.epoch = 1;
  auto *m = static_cast<Mount *>(mount_);
  __atomic_store_n(&m->policy, &fresh->policy, __ATOMIC_RELEASE);
  delete static_cast<OwnedPolicy *>(policy_);
  policy_ = fresh;
}

Counts Tree::counts(sf_op op) {
  const uint64_t *n = g.process->own.count[op];
  return {n[SF_OUT_SERVED], n[SF_OUT_DENIED], n[SF_OUT_MISSED], n[SF_OUT_PASSED]};
}
Counts Tree::all_counts() {
  Counts all;
  for (unsigned op = 0; op < SF_OP_COUNT; ++op) {
    Counts c = counts(static_cast<sf_op>(op));
    all.served += c.served;
    all.denied += c.denied;
    all.missed += c.missed;
    all.passed += c.passed;
  }
  return all;
}
uint64_t Tree::missed_for(sf_op op, sf_miss why) { return g.process->own.miss[op][why]; }

long by_kernel(long nr, long a, long b, long c, long d, long e, long f) { return sf_syscall6(nr, a, b, c, d, e, f); }

long through(long nr, long a, long b, long c, long d, long e, long f) {
  sf_call call = {nr, {a, b, c, d, e, f}};
  long result = 0;
  return sf_bypass_call(&call, &result) ? result : by_kernel(nr, a, b, c, d, e, f);
}

}  // namespace shortfuse::bypass
