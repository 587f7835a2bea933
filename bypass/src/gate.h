// For unit tests: two threads, of which one stops in the middle of a call.
#pragma once
#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <functional>
#include <thread>

namespace shortfuse::bypass {

/// A buffer that makes whoever writes into it, kernel or not, wait for another thread.
class Gate {
 public:
  static constexpr size_t kBytes = 65536;

  Gate() {
    uffd_ = static_cast<int>(syscall(SYS_userfaultfd, O_CLOEXEC));
    uffdio_api api = {UFFD_API, 0, 0};
    page_ = static_cast<char *>(mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    uffdio_register range = {range_(), UFFDIO_REGISTER_MODE_MISSING, 0};
    usable_ = uffd_ >= 0 && ioctl(uffd_, UFFDIO_API, &api) == 0 && ioctl(uffd_, UFFDIO_REGISTER, &range) == 0;
  }
  ~Gate() {
    close(uffd_);
    munmap(page_, kBytes);
  }
  bool usable() const { return usable_; }
  char *buffer() { return page_; }

  /// `first` in a thread until it writes into the buffer; then `second` here; then the rest of `first`.
  void between(const std::function<void()> &first, const std::function<void()> &second) {
    std::thread other(first);
    uffd_msg fault;
    EXPECT_EQ(read(uffd_, &fault, sizeof fault), static_cast<long>(sizeof fault));
    second();
    uffdio_zeropage zero = {range_(), 0, 0};
    EXPECT_EQ(ioctl(uffd_, UFFDIO_ZEROPAGE, &zero), 0);
    other.join();
  }

 private:
  uffdio_range range_() const { return {reinterpret_cast<uint64_t>(page_), kBytes}; }
  int uffd_;
  char *page_;
  bool usable_;
};

}  // namespace shortfuse::bypass
