// Joining a trace session: the files that SHORTFUSE_TRACE names are opened through the command's /proc entry, and
// believed only where they are what the command makes: a sealed, well-formed image; a session that cannot shrink, of
// this format, with the nonce of the variable (process and descriptor numbers are given again).
#include "trace_join.h"

#include "kernel.h"
#include "packets.h"
#include "process.h"
#include "text.h"

namespace shortfuse::bypass {
namespace {

constexpr int kGetSeals = 1034, kSealShrink = 2;
constexpr char kVariable[] = SF_TRACE_ENV "=";

// "PID.IMAGE.SESSION.NONCE", the nonce in hexadecimal.
struct Names {
  uint64_t pid, image, session, nonce;
};

bool number(const char **text, unsigned base, uint64_t *out) {
  *out = 0;
  int digits = 0;
  for (; **text != 0 && **text != '.'; ++*text, ++digits) {
    const char c = **text;
    const unsigned digit = c >= '0' && c <= '9'   ? unsigned(c - '0')
                           : c >= 'a' && c <= 'f' ? unsigned(c - 'a') + 10
                                                  : 99;
    if (digit >= base || digits == 16) return false;
    *out = *out * base + digit;
  }
  if (**text == '.') ++*text;
  return digits != 0;
}

bool parse(const char *text, Names *out) {
  return number(&text, 10, &out->pid) && number(&text, 10, &out->image) && number(&text, 10, &out->session) &&
         number(&text, 16, &out->nonce) && *text == 0;
}

int open_of(uint64_t pid, uint64_t fd, int flags) {
  char path[80];
  Text text(path, sizeof path);
  text.add("/proc/").num(pid).add("/fd/").num(fd);
  return static_cast<int>(SF_SYS4(__NR_openat, AT_FDCWD, path, flags | O_CLOEXEC, 0));
}

const sf_image *map_image(int fd) {
  const size_t bytes = file_bytes(fd);
  if (!sealed_file(fd, bytes, true)) return nullptr;
  const long at = SF_SYS6(__NR_mmap, 0, bytes, PROT_READ | PROT_EXEC, MAP_SHARED, fd, 0);
  if (is_error(at)) return nullptr;
  const auto *image = reinterpret_cast<const sf_image *>(at);
  if (sf_image_check(image, bytes) == 0) return image;
  unmap(image, bytes);
  return nullptr;
}

bool fits(const sf_trace_session *s, size_t bytes, const sf_image *image, uint64_t nonce) {
  return s->magic == SF_TRACE_MAGIC && s->format == SF_TRACE_FORMAT && s->bytes == bytes && s->nonce == nonce &&
         s->maps == image->maps;
}

bool hold_maps(sf_trace_session *s, size_t bytes, const sf_image *image) {
  for (uint32_t i = 0; i < image->maps; ++i) {
    const sf_map_shape shape = sf_image_map_shape(&image->map[i]);
    const uint64_t offset = s->map_offset[i];
    if (offset % 4096 != 0 || offset < sizeof *s || offset > bytes) return false;
    void *storage = reinterpret_cast<char *>(s) + offset;
    if (sf_map_check(storage, bytes - offset, &shape) != 0) return false;
    trace.map[i] = {storage, shape, 1, 1, 1};
    trace.handle[i] = &trace.map[i];
    trace.value[i] = sf_map_array_values(&trace.map[i]);
  }
  return true;
}

sf_trace_session *map_session(int fd, const sf_image *image, uint64_t nonce) {
  const size_t bytes = file_bytes(fd);
  const long seals = SF_SYS2(__NR_fcntl, fd, kGetSeals);
  if (is_error(seals) || (seals & kSealShrink) == 0 || bytes < sizeof(sf_trace_session)) return nullptr;
  const long at = SF_SYS6(__NR_mmap, 0, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (is_error(at)) return nullptr;
  auto *session = reinterpret_cast<sf_trace_session *>(at);
  if (fits(session, bytes, image, nonce) && hold_maps(session, bytes, image)) return session;
  unmap(session, bytes);
  return nullptr;
}

bool join(const Names &names) {
  const int image_fd = open_of(names.pid, names.image, O_RDONLY);
  trace.image = image_fd >= 0 ? map_image(image_fd) : nullptr;
  close_fd(image_fd);
  if (trace.image == nullptr) return false;
  const int session_fd = open_of(names.pid, names.session, O_RDWR);
  trace.session = session_fd >= 0 ? map_session(session_fd, trace.image, names.nonce) : nullptr;
  close_fd(session_fd);
  return trace.session != nullptr && trace_namespace() == trace.session->pid_namespace;
}

bool is_this_program(const sf_trace_exec &entry, const char *executed) {
  if (executed == nullptr || entry.by_another_name != 0) return true;
  for (size_t i = 0; i + 1 < sizeof entry.path; ++i) {
    if (entry.path[i] != executed[i]) return false;
    if (executed[i] == '\0') return true;
  }
  return true;  // as much of it as there is room for
}

}  // namespace

uint64_t trace_namespace() {
  struct stat st;
  if (is_error(SF_SYS4(__NR_newfstatat, AT_FDCWD, "/proc/self/ns/pid", &st, 0))) return 0;
  return st.st_ino;
}

}  // namespace shortfuse::bypass

using namespace shortfuse::bypass;

extern "C" {

int sf_trace_start(char **envp) {
  const char *value = nullptr;
  for (char **e = envp; e != nullptr && *e != nullptr && value == nullptr; ++e) {
    if (text_starts(*e, kVariable)) value = *e + sizeof kVariable - 1;
  }
  Names names;
  if (value == nullptr || !parse(value, &names)) return 0;
  if (!join(names)) return log_line(false, "the trace session cannot be joined", value), 0;
  constexpr long kNoReturn[] = {__NR_fork,   __NR_vfork,    __NR_clone, __NR_clone3,
                                __NR_execve, __NR_execveat, __NR_exit,  __NR_exit_group, __NR_rt_sigreturn};
  const sf_trace_session *s = trace.session;
  for (unsigned nr = 0; nr < SF_CALL_NUMBERS; ++nr) {
    uint8_t plan = s->chain_of[SF_TRACE_ENTER][nr] != 0 ? SF_TRACE_SEES | kHasEnter : 0;
    if (s->chain_of[SF_TRACE_EXIT][nr] != 0) plan |= SF_TRACE_SEES | SF_TRACE_RETURN;
    trace.plan[nr] = plan;
  }
  // Their ends cannot be waited for from here, whatever the session says.
  for (long nr : kNoReturn) trace.plan[nr] &= uint8_t(~SF_TRACE_RETURN);
  trace.on = true;
  return 1;
}

void sf_trace_begin(unsigned unpatched, const char *executed) {
  sf_trace_session *s = trace.session;
  if (!trace.on) return;
  const auto pid = static_cast<uint32_t>(SF_SYS0(__NR_getpid));
  for (sf_trace_exec &entry : s->exec) {
    uint32_t mine = pid;
    // A program that is not traced may have executed this one: it stays named.
    if (__atomic_load_n(&entry.pid, __ATOMIC_ACQUIRE) != pid || !is_this_program(entry, executed)) continue;
    __atomic_compare_exchange_n(&entry.pid, &mine, 0u, false, __ATOMIC_RELEASE, __ATOMIC_RELAXED);
  }
  __atomic_add_fetch(&s->attached, 1, __ATOMIC_RELAXED);
  if (unpatched > __atomic_load_n(&s->unpatched, __ATOMIC_RELAXED))
    __atomic_store_n(&s->unpatched, uint64_t{unpatched}, __ATOMIC_RELAXED);
}

}  // extern "C"
