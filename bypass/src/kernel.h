// The kernel's interface as the bypass needs it, without libc's headers (they redefine half of it).
//
// Names that <linux/*.h> leaves to libc are given here under the same values. x86-64.
#pragma once
#include <asm/stat.h>
#include <asm/statfs.h>
#include <asm/unistd.h>
#include <errno.h>
#include <linux/auxvec.h>
#include <linux/capability.h>
#include <linux/elf.h>
#include <linux/fcntl.h>
#include <linux/limits.h>
#include <linux/membarrier.h>
#include <linux/mman.h>
#include <linux/prctl.h>
#include <linux/sched.h>
#include <linux/stat.h>
#include <linux/time_types.h>
#include <linux/uio.h>
#include <stddef.h>
#include <stdint.h>

#include "shortfuse/bypass/syscalls.h"

namespace shortfuse::bypass {

// System calls newer than the headers.
constexpr long kSysMountSetattr = 442;
constexpr long kSysFchmodat2 = 452;
constexpr long kSysKnown = 452;   // what comes behind is not known
constexpr long kSysSeen = 512;    // tables of numbers end here
constexpr long kSysQuotactlFd = 443, kSysLandlockAddRule = 445, kSysLandlockRestrictSelf = 446, kSysCachestat = 451;

// Values that only libc's headers carry.
constexpr long kMaxRwCount = 0x7ffff000;
constexpr int kIovMax = 1024;
constexpr int kPathMax = 4096;
constexpr int kSigBlock = 0, kSigSetmask = 2;
constexpr int kSeekSet = 0, kSeekCur = 1, kSeekEnd = 2, kSeekData = 3, kSeekHole = 4;
constexpr int kAccessMask = 7, kMayExec = 1, kMayWrite = 2, kMayRead = 4;
constexpr int kAtHandleFid = 0x200;       // name_to_handle_at: any handle will do, it is never opened
constexpr uint32_t kFuseSuperMagic = 0x65735546;
constexpr unsigned kStNoSymFollow = 0x2000;
constexpr unsigned kStNoExec = 8, kStReadOnly = 1;
constexpr int kAfUnix = 1, kSockSeqpacket = 5, kSockCloexec = 02000000, kSolSocket = 1, kScmRights = 1;
constexpr int kSoPeercred = 17, kSoRcvtimeo = 20, kSoSndtimeo = 21;
constexpr int kMsgDontwait = 0x40, kMsgNosignal = 0x4000, kMsgCmsgCloexec = 0x40000000, kMsgCtrunc = 8;
constexpr int kClockMonotonic = 1, kClockMonotonicCoarse = 6;
constexpr unsigned kCloseRangeUnshare = 2, kCloseRangeCloexec = 4;
constexpr uint32_t kStickyWorldWritable = 01002;

// Another thread is between two system calls, with its signals blocked. It may have been preempted, by us too: so who
// waits for it soon sleeps, and does not only yield.
constexpr unsigned kYields = 1000;
inline void pause_a_little(unsigned turns) {
  if (turns < kYields) {
    SF_SYS0(__NR_sched_yield);
    return;
  }
  __kernel_timespec nap = {0, 50'000};
  SF_SYS2(__NR_nanosleep, &nap, 0);
}

struct KernelMsghdr {
  void *name;
  int name_len;
  iovec *iov;
  size_t iov_len;
  void *control;
  size_t control_len;
  unsigned flags;
};
struct KernelMmsghdr {
  KernelMsghdr hdr;
  unsigned len;
};
struct KernelCmsg {
  size_t len;
  int level;
  int type;
};
struct KernelUcred {
  uint32_t pid, uid, gid;
};
struct KernelSockaddrUn {
  uint16_t family;
  char path[108];
};
struct KernelFileHandle {
  uint32_t bytes;
  int32_t type;
  uint32_t word[4];
};
struct KernelDirent {
  uint64_t ino;
  uint64_t off;
  uint16_t reclen;
  uint8_t type;
  char name[];
};
// File types by st_mode.
constexpr uint32_t kTypeMask = 0170000;
constexpr bool is_directory(uint32_t mode) { return (mode & kTypeMask) == 0040000; }
constexpr bool is_regular(uint32_t mode) { return (mode & kTypeMask) == 0100000; }
constexpr bool is_link(uint32_t mode) { return (mode & kTypeMask) == 0120000; }
constexpr bool is_socket_mode(uint32_t mode) { return (mode & kTypeMask) == 0140000; }
constexpr bool is_char_device(uint32_t mode) { return (mode & kTypeMask) == 0020000; }
constexpr bool is_block_device(uint32_t mode) { return (mode & kTypeMask) == 0060000; }

/// -errno for the error results of a raw call.
inline bool is_error(long result) { return static_cast<unsigned long>(result) >= static_cast<unsigned long>(-4095L); }

inline void *map_anonymous(size_t bytes) {
  long at = SF_SYS6(__NR_mmap, 0, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  return is_error(at) ? nullptr : reinterpret_cast<void *>(at);
}
inline void unmap(const void *at, size_t bytes) {
  if (at != nullptr) SF_SYS2(__NR_munmap, at, bytes);
}
inline void close_fd(int fd) {
  if (fd >= 0) SF_SYS1(__NR_close, fd);
}

}  // namespace shortfuse::bypass
