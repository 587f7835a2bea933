// Probes of the way in and out: registers, the red zone, the text of libc, mappings, bad pointers.
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <link.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "probe.h"

// Calls access(path, F_OK) with a pattern in every register but rdi, rsi and rsp, and 120 bytes of pattern in the red
// zone below the frame of access(); stores what is found afterwards. access() in libc is `mov $21,%eax; syscall; cmp;
// ja; ret`: everything but rax, rcx, r11 and the flags must be what it was.
struct Registers {
  uint64_t general[12];  // rbx rbp rdx r8 r9 r10 r12 r13 r14 r15 rdi rsi
  uint64_t red_zone[15];
  alignas(32) uint8_t vector[16][32];
  uint32_t mxcsr;
  uint16_t x87;
};

extern "C" long probe_call_with(long (*function)(const char *, long), const char *path, const Registers *in,
                                Registers *out);
__asm__(R"(
    .text
    .type probe_call_with, @function
probe_call_with:
    push %rbx
    push %rbp
    push %r12
    push %r13
    push %r14
    push %r15
    push %rcx
    sub $8, %rsp
    mov %rdi, %rax
    mov %rsi, %rdi
    .set i, 0
    .rept 15
    mov 96+8*i(%rdx), %rbx
    mov %rbx, -16-8*i(%rsp)
    .set i, i+1
    .endr
    vmovdqa 224+0(%rdx), %ymm0
    vmovdqa 224+32(%rdx), %ymm1
    vmovdqa 224+64(%rdx), %ymm2
    vmovdqa 224+96(%rdx), %ymm3
    vmovdqa 224+128(%rdx), %ymm4
    vmovdqa 224+160(%rdx), %ymm5
    vmovdqa 224+192(%rdx), %ymm6
    vmovdqa 224+224(%rdx), %ymm7
    vmovdqa 224+256(%rdx), %ymm8
    vmovdqa 224+288(%rdx), %ymm9
    vmovdqa 224+320(%rdx), %ymm10
    vmovdqa 224+352(%rdx), %ymm11
    vmovdqa 224+384(%rdx), %ymm12
    vmovdqa 224+416(%rdx), %ymm13
    vmovdqa 224+448(%rdx), %ymm14
    vmovdqa 224+480(%rdx), %ymm15
    ldmxcsr 736(%rdx)
    fldcw 740(%rdx)
    mov 0(%rdx), %rbx
    mov 8(%rdx), %rbp
    mov 24(%rdx), %r8
    mov 32(%rdx), %r9
    mov 40(%rdx), %r10
    mov 48(%rdx), %r12
    mov 56(%rdx), %r13
    mov 64(%rdx), %r14
    mov 72(%rdx), %r15
    mov 88(%rdx), %rsi
    mov 16(%rdx), %rdx
    call *%rax
    mov 8(%rsp), %rcx
    mov %rbx, 0(%rcx)
    .set i, 0
    .rept 15
    mov -16-8*i(%rsp), %rbx
    mov %rbx, 96+8*i(%rcx)
    .set i, i+1
    .endr
    mov %rbp, 8(%rcx)
    mov %rdx, 16(%rcx)
    mov %r8, 24(%rcx)
    mov %r9, 32(%rcx)
    mov %r10, 40(%rcx)
    mov %r12, 48(%rcx)
    mov %r13, 56(%rcx)
    mov %r14, 64(%rcx)
    mov %r15, 72(%rcx)
    mov %rdi, 80(%rcx)
    mov %rsi, 88(%rcx)
    vmovdqa %ymm0, 224+0(%rcx)
    vmovdqa %ymm1, 224+32(%rcx)
    vmovdqa %ymm2, 224+64(%rcx)
    vmovdqa %ymm3, 224+96(%rcx)
    vmovdqa %ymm4, 224+128(%rcx)
    vmovdqa %ymm5, 224+160(%rcx)
    vmovdqa %ymm6, 224+192(%rcx)
    vmovdqa %ymm7, 224+224(%rcx)
    vmovdqa %ymm8, 224+256(%rcx)
    vmovdqa %ymm9, 224+288(%rcx)
    vmovdqa %ymm10, 224+320(%rcx)
    vmovdqa %ymm11, 224+352(%rcx)
    vmovdqa %ymm12, 224+384(%rcx)
    vmovdqa %ymm13, 224+416(%rcx)
    vmovdqa %ymm14, 224+448(%rcx)
    vmovdqa %ymm15, 224+480(%rcx)
    stmxcsr 736(%rcx)
    fnstcw 740(%rcx)
    add $8, %rsp
    pop %rcx
    pop %r15
    pop %r14
    pop %r13
    pop %r12
    pop %rbp
    pop %rbx
    ret
)");
static_assert(offsetof(Registers, vector) == 224 && offsetof(Registers, mxcsr) == 736 &&
              offsetof(Registers, x87) == 740 && offsetof(Registers, red_zone) == 96);

namespace {


int registers(char **) {
  const struct { const char *path; long result; } kCases[] = {
      {"/fake/1", hooked() ? 0 : -1}, {"/", 0}, {(char *)1, -1}};
  auto function = (long (*)(const char *, long))dlsym(RTLD_DEFAULT, "access");
  for (int round = 0; round < 300; round++) {
    for (auto &one : kCases) {
      Registers in, out;
      memset(&out, 0, sizeof out);
      auto bytes = (uint8_t *)&in;
      for (size_t i = 0; i < sizeof in; i++) bytes[i] = (uint8_t)(i * 37 + 11 + round);
      in.general[10] = (uint64_t)one.path;
      in.general[11] = 0;  // F_OK
      in.mxcsr = round % 2 ? 0x1f80 : 0x7f80;
      in.x87 = round % 2 ? 0x37f : 0x27f;
      // rax is an int: a failing access() sets errno, and only then runs more of libc.
      int result = (int)probe_call_with(function, one.path, &in, &out);
      CHECK(result == one.result);
      if (result) {
        CHECK(!memcmp(in.general, out.general, 2 * 8));
        CHECK(!memcmp(in.vector, out.vector, sizeof in.vector));
        continue;
      }
      for (int i = 0; i < 12; i++) CHECK(in.general[i] == out.general[i]);
      CHECK(!memcmp(in.red_zone, out.red_zone, sizeof in.red_zone));
      CHECK(!memcmp(in.vector, out.vector, sizeof in.vector));
      CHECK(in.mxcsr == out.mxcsr && in.x87 == out.x87);
    }
  }
  unsigned mxcsr = 0x1f80;
  unsigned short x87 = 0x37f;
  __asm__ volatile("ldmxcsr %0; fldcw %1" ::"m"(mxcsr), "m"(x87));
  return 0;
}

// syscall() takes seven arguments; all must arrive, and errors become errno.
int generic_syscall(char **) {
  struct stat status;
  int result = (int)syscall(SYS_newfstatat, AT_FDCWD, "/fake/41", &status, 0);
  CHECK(hooked() ? result == 0 && status.st_size == 41 : result == -1 && errno == ENOENT);
  CHECK(syscall(SYS_newfstatat, AT_FDCWD, (char *)8, &status, 0) == -1 && errno == EFAULT);
  CHECK(syscall(100000) == -1 && errno == ENOSYS);
  CHECK(syscall(-5L) == -1 && errno == ENOSYS);
  char name[] = "/tmp/hook-probe-XXXXXX";
  int fd = mkstemp(name);
  CHECK(fd >= 0 && ftruncate(fd, 8192) == 0 && pwrite(fd, "second", 6, 4096) == 6);
  auto map = (char *)syscall(SYS_mmap, 0, 4096, PROT_READ, MAP_SHARED, fd, 4096);  // six arguments
  CHECK(map != MAP_FAILED && !strcmp(map, "second"));
  CHECK(unlink(name) == 0);
  return 0;
}

int bad_pointers(char **) {
  struct stat status;
  char *none = (char *)mmap(nullptr, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  CHECK(mprotect(none + 4096, 4096, PROT_NONE) == 0);
  for (int round = 0; round < 2000; round++) {
    const uint64_t kBad[] = {8, 0x8000000000000000, 0xffffffffffffff00, 0x7fffffffffff, (uint64_t)none + 4096};
    for (uint64_t bad : kBad) {
      errno = 0;
      CHECK(stat((char *)bad, &status) == -1 && errno == EFAULT);
      errno = 0;
      CHECK(access((char *)bad, 0) == -1 && errno == EFAULT);
    }
    // A path that runs into the hole.
    memcpy(none + 4096 - 6, "/fake/", 6);
    CHECK(lstat(none + 4096 - 6, &status) == -1 && errno == EFAULT);
    // Ours, but the result cannot be written: the kernel decides, and it knows no such file.
    CHECK(stat("/fake/1", (struct stat *)(none + 4096)) == -1 && errno == ENOENT);
    CHECK(stat("/", (struct stat *)(none + 4096)) == -1 && errno == EFAULT);
    CHECK(pread(1000, none + 4000, 4096, 0) == -1 && errno == EBADF);
    int fd = open("/proc/self/exe", O_RDONLY);
    CHECK(fd >= 0 && pread(fd, none + 4096, 64, 0) == -1 && errno == EFAULT);
    CHECK(pread(fd, none + 4096 - 64, 128, 0) == 64);
    CHECK(close(fd) == 0);
  }
  return 0;
}

// A mapping of a file that became shorter: SIGBUS for an instruction, EFAULT for a system call.
int bus_error(char **) {
  char name[] = "/tmp/hook-probe-XXXXXX";
  int fd = mkstemp(name);
  CHECK(fd >= 0 && unlink(name) == 0 && ftruncate(fd, 4096) == 0);
  auto map = (char *)mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  CHECK(map != MAP_FAILED && ftruncate(fd, 0) == 0);
  struct stat status;
  for (int i = 0; i < 100; i++) {
    CHECK(stat(map, &status) == -1 && errno == EFAULT);
    CHECK(pread(1000, map, 10, 0) == -1 && errno == EBADF);
  }
  return 0;
}

struct Text {
  uint64_t base;
  std::string path;
};

int collect(dl_phdr_info *info, size_t, void *to) {
  std::string path = info->dlpi_name;
  if (path.find("/libc.so") != path.npos || path.find("ld-linux") != path.npos)
    ((std::vector<Text> *)to)->push_back({info->dlpi_addr, path});
  return 0;
}

// The text of libc and ld.so is what their files say, except for five bytes at each recorded window; these jump
// into the slots.
int text_unchanged(char **) {
  std::vector<Text> texts;
  dl_iterate_phdr(collect, &texts);
  CHECK(texts.size() == 2);
  const sf_hook_state *state = hook_state();
  unsigned windows = 0;
  for (const Text &text : texts) {
    std::ifstream file(text.path, std::ios::binary);
    std::string bytes((std::istreambuf_iterator<char>(file)), {});
    auto header = (const Elf64_Ehdr *)bytes.data();
    auto phdr = (const Elf64_Phdr *)(bytes.data() + header->e_phoff);
    for (int i = 0; i < header->e_phnum; i++) {
      if (phdr[i].p_type != PT_LOAD || !(phdr[i].p_flags & PF_X)) continue;
      std::string expected = bytes.substr(phdr[i].p_offset, phdr[i].p_filesz);
      uint64_t start = text.base + phdr[i].p_vaddr;
      for (unsigned w = 0; hooked() && w < state->windows; w++) {
        uint64_t at = state->window[w].address - start;
        if (at >= expected.size()) continue;
        auto jump = (const uint8_t *)state->window[w].address;
        uint64_t target = (uint64_t)jump + 5 + (int64_t)*(const int32_t *)(jump + 1);
        CHECK(jump[0] == 0xe9 && target - state->slots < state->slots_bytes);
        memcpy(&expected[at], jump, 5);
        windows++;
      }
      CHECK(!memcmp(expected.data(), (void *)start, expected.size()));
    }
  }
  CHECK(!hooked() || (windows == state->windows && windows > 50));
  return 0;
}

extern "C" const void *_Unwind_Find_FDE(void *, void *);  // of libgcc

// From any place in a slot's code unwinders go on behind the `syscall`: its address stands at the slot's beginning.
int slots_unwind(char **) {
  const sf_hook_state *state = hook_state();
  unsigned sizes[2] = {};
  for (unsigned w = 0; hooked() && w < state->windows; w++) {
    auto jump = (const uint8_t *)state->window[w].address;
    const uint64_t code = (uint64_t)jump + 5 + (int64_t)*(const int32_t *)(jump + 1), slot = code - 8;
    CHECK(slot == state->slots + state->window[w].slot * 32ull);
    const uint64_t behind = *(const uint64_t *)slot;
    CHECK(behind > (uint64_t)jump && behind - (uint64_t)jump < 32);
    struct {
      void *text, *data, *function;
    } bases = {};
    CHECK(_Unwind_Find_FDE((void *)code, &bases));
    const bool is_short = (uint64_t)bases.function == state->slots;
    const uint64_t bytes = is_short ? 32 : 128;
    // Where each part of the slots begins says which mask its unwind information has.
    CHECK(slot % bytes == 0 && (uint64_t)bases.function % bytes == 0);
    for (uint64_t at = code; at < slot + bytes; at++) {
      auto other = bases;
      CHECK(_Unwind_Find_FDE((void *)at, &other) && other.function == bases.function);
    }
    sizes[is_short]++;
  }
  CHECK(!hooked() || (sizes[0] > 5 && sizes[1] > sizes[0]));
  return 0;
}

// A process that may not make executable what it could write is left alone, before anything of libc is touched.
int no_new_code(char **arguments) {
  constexpr int kSetMdwe = 65, kRefuseGain = 1;
  if (prctl(kSetMdwe, kRefuseGain, 0, 0, 0)) return 0;  // an older kernel
  execl(arguments[0], arguments[0], "text-unchanged", arguments[0], nullptr);
  return 1;
}

int no_writable_code(char **) {
  std::ifstream maps("/proc/self/maps");
  std::string line;
  int code = 0;
  while (std::getline(maps, line)) {
    std::string rights = line.substr(line.find(' ') + 1, 4);
    CHECK(!(rights[1] == 'w' && rights[2] == 'x'));
    code += rights[2] == 'x';
  }
  CHECK(code > 3);
  return 0;
}

}  // namespace

const Probe kRegisterProbes[] = {
    {"registers", registers},
    {"generic-syscall", generic_syscall},
    {"bad-pointers", bad_pointers},
    {"bus-error", bus_error},
    {"text-unchanged", text_unchanged},
    {"slots-unwind", slots_unwind},
    {"no-new-code", no_new_code},
    {"no-writable-code", no_writable_code},
    {nullptr, nullptr},
};
