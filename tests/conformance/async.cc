// Asynchronous I/O: io_uring and the older system calls, through libc's syscall() and from a module's own text.
#include <dlfcn.h>
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <linux/io_uring.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <cstring>

#include "conformance/case.h"
#include "conformance/programs/raw_module.h"

namespace shortfuse::tests::conformance {
namespace {

using SystemCall = long (*)(long, long, long, long, long, long, long);

long by_libc(long nr, long a, long b, long c, long d, long e, long f) { return syscall(nr, a, b, c, d, e, f); }

/// The smallest user of io_uring: one request at a time.
class Ring {
 public:
  explicit Ring(SystemCall call) : call_(call) {
    io_uring_params params = {};
    fd_ = static_cast<int>(call_(SYS_io_uring_setup, 8, reinterpret_cast<long>(&params), 0, 0, 0, 0));
    if (fd_ < 0) return;
    size_t bytes = params.sq_off.array + params.sq_entries * sizeof(unsigned);
    size_t completed = params.cq_off.cqes + params.cq_entries * sizeof(io_uring_cqe);
    sq_ = map(bytes, IORING_OFF_SQ_RING), cq_ = map(completed, IORING_OFF_CQ_RING);
    sqes_ = reinterpret_cast<io_uring_sqe *>(map(params.sq_entries * sizeof(io_uring_sqe), IORING_OFF_SQES));
    tail_ = at(sq_, params.sq_off.tail), mask_ = at(sq_, params.sq_off.ring_mask);
    array_ = at(sq_, params.sq_off.array);
    cq_head_ = at(cq_, params.cq_off.head), cq_mask_ = at(cq_, params.cq_off.ring_mask);
    cqes_ = reinterpret_cast<io_uring_cqe *>(cq_ + params.cq_off.cqes);
  }
  bool there() const { return fd_ >= 0; }
  long run(uint8_t opcode, int fd, const void *address, unsigned length, uint64_t offset, unsigned flags = 0) {
    unsigned index = *tail_ & *mask_;
    io_uring_sqe *sqe = &sqes_[index];
    memset(sqe, 0, sizeof *sqe);
    sqe->opcode = opcode, sqe->fd = fd, sqe->addr = reinterpret_cast<uint64_t>(address), sqe->len = length;
    sqe->off = offset, sqe->open_flags = flags;
    array_[index] = index;
    std::atomic_ref(*tail_).store(*tail_ + 1, std::memory_order_release);
    long entered = call_(SYS_io_uring_enter, fd_, 1, 1, IORING_ENTER_GETEVENTS, 0, 0);
    if (entered < 0) return -1;
    unsigned head = *cq_head_;
    long result = cqes_[head & *cq_mask_].res;
    std::atomic_ref(*cq_head_).store(head + 1, std::memory_order_release);
    if (result >= 0) return result;
    errno = static_cast<int>(-result);
    return -1;
  }

 private:
  char *map(size_t bytes, uint64_t offset) {
    void *at = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd_, static_cast<off_t>(offset));
    return static_cast<char *>(at);
  }
  static unsigned *at(char *base, unsigned offset) { return reinterpret_cast<unsigned *>(base + offset); }
  SystemCall call_;
  int fd_;
  char *sq_ = nullptr, *cq_ = nullptr;
  io_uring_sqe *sqes_ = nullptr;
  unsigned *tail_ = nullptr, *mask_ = nullptr, *array_ = nullptr, *cq_head_ = nullptr, *cq_mask_ = nullptr;
  io_uring_cqe *cqes_ = nullptr;
};

void use_ring(SystemCall call) {
  int before = open("text", O_RDONLY);
  reads(before, 10);
  Ring ring(call);
  said("ring", ring.there());
  if (!ring.there()) return;
  char buffer[100];
  said("at a place", ring.run(IORING_OP_READ, before, buffer, 20, 100));
  say("bytes", "%s", digest({buffer, 20}).c_str());
  said("at the offset", ring.run(IORING_OP_READ, before, buffer, 20, ~0ull));
  say("its bytes", "%s", digest({buffer, 20}).c_str());
  said("offset", position(before));
  say("read on", "%s", reads(before, 10).c_str());
  int fd = open("big", O_RDONLY);
  reads(fd, 1000);
  said("again at the offset", ring.run(IORING_OP_READ, fd, buffer, 20, ~0ull));
  say("those bytes", "%s", digest({buffer, 20}).c_str());
  said("closed", ring.run(IORING_OP_CLOSE, fd, nullptr, 0, 0));
  int ends[2];
  said("pipe", pipe(ends));
  said("in its place", ends[0] - fd);
  said("written", write(ends[1], "of the pipe", 11));
  say("read of it", "%s", reads(ends[0], 100).c_str());
  int opened = static_cast<int>(ring.run(IORING_OP_OPENAT, AT_FDCWD, "text", 0, 0, O_RDONLY));
  said("opened", opened >= 0 ? 0 : -1);
  say("through it", "%s", reads(opened, 10).c_str());
  struct statx answer = {};
  said("statx", ring.run(IORING_OP_STATX, AT_FDCWD, "link", STATX_SIZE, reinterpret_cast<uint64_t>(&answer)));
  said("size", static_cast<long>(answer.stx_size));
  said("unlinked", ring.run(IORING_OP_UNLINKAT, AT_FDCWD, "text", 0, 0));
  struct stat st;
  said("gone", stat("text", &st));
  say("contents", "%s", contents("big").c_str());
}

void io_uring_by_libc(const Place &) { use_ring(by_libc); }

/// What liburing and libaio do: system calls in the module's own text.
SystemCall module_call() {
  void *module = dlopen(built("conformance_raw.so").c_str(), RTLD_NOW);
  if (module == nullptr) throw Broken(dlerror());
  auto call = reinterpret_cast<RawCall *>(dlsym(module, "raw_call"));
  if (call == nullptr) throw Broken("no raw_call");
  return call;
}

void io_uring_by_a_module(const Place &) { use_ring(module_call()); }

void use_aio(SystemCall call) {
  int fd = open("text", O_RDONLY), writer = open("empty", O_RDWR);
  reads(fd, 10), reads(writer, 10);
  aio_context_t context = 0;
  said("setup", call(SYS_io_setup, 8, reinterpret_cast<long>(&context), 0, 0, 0, 0));
  char buffer[2][100];
  iocb one = {}, two = {};
  one.aio_lio_opcode = IOCB_CMD_PREAD, one.aio_fildes = static_cast<uint32_t>(fd);
  one.aio_buf = reinterpret_cast<uint64_t>(buffer[0]), one.aio_nbytes = 50, one.aio_offset = 70;
  two = one;
  two.aio_buf = reinterpret_cast<uint64_t>(buffer[1]), two.aio_offset = 9'990;
  iocb *list[] = {&one, &two};
  said("submitted", call(SYS_io_submit, static_cast<long>(context), 2, reinterpret_cast<long>(list), 0, 0, 0));
  io_event events[2] = {};
  said("done", call(SYS_io_getevents, static_cast<long>(context), 2, 2, reinterpret_cast<long>(events), 0, 0));
  said("results", static_cast<long>(events[0].res + events[1].res));
  say("bytes", "%s %s", digest({buffer[0], 50}).c_str(), digest({buffer[1], 10}).c_str());
  said("offset", position(fd));
  say("read on", "%s", reads(fd, 10).c_str());
  memcpy(buffer[0], "written by aio", 14);
  one.aio_lio_opcode = IOCB_CMD_PWRITE, one.aio_fildes = static_cast<uint32_t>(writer);
  one.aio_nbytes = 14, one.aio_offset = 0;
  said("to be written", call(SYS_io_submit, static_cast<long>(context), 1, reinterpret_cast<long>(list), 0, 0, 0));
  said("written", call(SYS_io_getevents, static_cast<long>(context), 1, 1, reinterpret_cast<long>(events), 0, 0));
  say("there", "%s", contents("empty").c_str());
  said("destroyed", call(SYS_io_destroy, static_cast<long>(context), 0, 0, 0, 0, 0));
}

void aio_by_libc(const Place &) { use_aio(by_libc); }
void aio_by_a_module(const Place &) { use_aio(module_call()); }

}  // namespace

std::vector<Case> async_cases() {
  return {
      {"io_uring", io_uring_by_libc, {"read"}},
      {"io_uring_module", io_uring_by_a_module, {}},
      {"aio", aio_by_libc, {"read"}},
      {"aio_module", aio_by_a_module, {}},
  };
}

}  // namespace shortfuse::tests::conformance
