// Sites remembered by build-id. See site_cache.h.
#include "site_cache.h"

#include <asm/stat.h>
#include <asm/unistd.h>
#include <errno.h>
#include <linux/fcntl.h>

#include "shortfuse/bypass/syscalls.h"
#include "text.h"

namespace {

constexpr uint64_t kMagic = 0x3173657469736673ull;  // "sfsites1"
constexpr uint32_t kFormat = 4;                      // raised whenever the search changes what it finds
constexpr const char *kSystemPlace = "/var/cache/shortfuse";
constexpr int kNotTried = -4096;  // no descriptor, and no error of a call
constexpr unsigned kTypeMask = 0170000, kRegular = 0100000, kFolder = 0040000, kOthersWrite = 022;
constexpr int kReadOnly = 00, kWriteOnly = 01, kCreate = 0100, kExclusive = 0200, kDirectory = 0200000,
              kNoFollow = 0400000, kCloseOnExec = 02000000, kNonBlock = 04000;

struct FileHeader {
  uint64_t magic;
  uint32_t format;
  uint32_t count;
  uint64_t text_bytes;
  uint32_t build_id_bytes;
  uint32_t site_bytes;
  uint8_t build_id[SF_BUILD_ID_MAX];
  uint64_t checksum;  // of the header with this field 0, and the entries
};
static_assert(sizeof(FileHeader) == 72 && sizeof(sf_site) == 16);

inline uint64_t mixed(uint64_t sum, const uint8_t *at) {
  uint64_t word;
  __builtin_memcpy(&word, at, 8);
  sum = (sum ^ word) * 0x9e3779b97f4a7c15ull;
  return sum ^ sum >> 29;
}

// Not against forgery (whoever may write the file may run code as this user), but against torn and decayed files. Four
// sums that do not wait for each other: one alone took 2 us for the C library.
uint64_t checksum(uint64_t sum, const void *data, size_t bytes) {
  auto p = (const uint8_t *)data;
  uint64_t lane[] = {sum, sum + 1, sum + 2, sum + 3};
  for (; bytes >= 32; bytes -= 32, p += 32) {
    lane[0] = mixed(lane[0], p);
    lane[1] = mixed(lane[1], p + 8);
    lane[2] = mixed(lane[2], p + 16);
    lane[3] = mixed(lane[3], p + 24);
  }
  sum = mixed(mixed(mixed(lane[0], (const uint8_t *)&lane[1]), (const uint8_t *)&lane[2]), (const uint8_t *)&lane[3]);
  for (; bytes >= 8; bytes -= 8, p += 8) sum = mixed(sum, p);
  for (; bytes; bytes--, p++) sum = (sum ^ *p) * 0x100000001b3ull;
  return sum;
}

FileHeader header_for(const sf_module *module, const sf_site *sites, uint32_t count) {
  FileHeader header = {};
  header.magic = kMagic;
  header.format = kFormat;
  header.count = count;
  header.text_bytes = module->text_end - module->text;
  header.build_id_bytes = module->build_id_bytes;
  header.site_bytes = sizeof(sf_site);
  for (uint32_t i = 0; i < module->build_id_bytes; i++) header.build_id[i] = module->build_id[i];
  uint64_t sum = checksum(kMagic, &header, sizeof header);
  header.checksum = checksum(sum, sites, (size_t)count * sizeof(sf_site));
  return header;
}

bool same_header(const FileHeader &a, const FileHeader &b) {
  return __builtin_memcmp(&a, &b, sizeof a) == 0;
}

void file_name(const char *kind, const sf_module *module, char *name, size_t room) {
  size_t length = sf_append(name, room, 0, kind);
  for (uint32_t i = 0; i < module->build_id_bytes; i++) {
    if (module->build_id[i] < 16) length = sf_append(name, room, length, "0");
    length = sf_append_number(name, room, length, module->build_id[i], 16);
  }
}

bool trusted(int fd, unsigned type, uint32_t uid) {
  struct stat status;
  if (SF_SYS2(__NR_fstat, fd, &status)) return false;
  return (status.st_mode & kTypeMask) == type && (status.st_uid == uid || status.st_uid == 0) &&
         (status.st_mode & kOthersWrite) == 0;
}

int open_place(const char *path, uint32_t uid) {
  if (!*path) return -1;
  long fd = SF_SYS4(__NR_openat, AT_FDCWD, path, kReadOnly | kDirectory | kCloseOnExec | kNonBlock, 0);
  if (fd >= 0 && !trusted((int)fd, kFolder, uid)) {
    SF_SYS1(__NR_close, fd);
    return -1;
  }
  return (int)fd;
}

int read_entries(int fd, const sf_module *module, sf_site *sites) {
  FileHeader header;
  const struct {
    void *base;
    size_t bytes;
  } parts[] = {{&header, sizeof header}, {sites, SF_SITES_MAX * sizeof(sf_site)}};
  const long got = SF_SYS3(__NR_readv, fd, parts, 2);
  if (got < (long)sizeof header || header.magic != kMagic) return -1;
  if (header.count > SF_SITES_MAX || header.count == 0) return -1;
  if ((size_t)got < sizeof header + (size_t)header.count * sizeof(sf_site)) return -1;
  if (!same_header(header, header_for(module, sites, header.count))) return -1;
  return (int)header.count;
}

int load_from(int folder, uint32_t uid, const sf_module *module, sf_site *sites) {
  if (folder < 0) return -1;
  char name[96];
  file_name("sites-", module, name, sizeof name);
  long fd = SF_SYS4(__NR_openat, folder, name, kReadOnly | kNoFollow | kCloseOnExec | kNonBlock, 0);
  if (fd < 0) return -1;
  int count = trusted((int)fd, kRegular, uid) ? read_entries((int)fd, module, sites) : -1;
  SF_SYS1(__NR_close, fd);
  return count;
}

// A directory of this user's own, in which nobody else may write. Made where it is missing and `make` says so.
int open_own(int above, const char *name, int flags, bool make, uint32_t uid) {
  const int all = kReadOnly | kDirectory | kCloseOnExec | kNonBlock | flags;
  long fd = SF_SYS4(__NR_openat, above, name, all, 0);
  if (fd == -ENOENT && make) {
    SF_SYS3(__NR_mkdirat, above, name, 0700);
    fd = SF_SYS4(__NR_openat, above, name, all | kNoFollow, 0);
  }
  struct stat status;
  if (fd < 0 || (SF_SYS2(__NR_fstat, fd, &status) == 0 && status.st_uid == uid && !(status.st_mode & kOthersWrite)))
    return (int)fd;
  SF_SYS1(__NR_close, fd);
  return -1;
}

// The user's directory, to store in. What lies in a directory of somebody else's may be a link that leads anywhere.
int open_or_make_place(const sf_cache_place *place) {
  const char *above = place->user + place->above, *parent = place->user + place->parent;
  long start = open_own(AT_FDCWD, above, 0, false, place->uid);
  const bool own = start >= 0;
  if (!own) start = SF_SYS4(__NR_openat, AT_FDCWD, above, kReadOnly | kDirectory | kCloseOnExec | kNonBlock, 0);
  if (start < 0) return -1;
  const int middle = open_own((int)start, parent, own ? 0 : kNoFollow, own, place->uid);
  SF_SYS1(__NR_close, start);
  if (middle < 0) return -1;
  const int folder = open_own(middle, "shortfuse", kNoFollow, true, place->uid);
  SF_SYS1(__NR_close, middle);
  return folder;
}

bool store_in(int folder, unsigned mode, const sf_module *module, const sf_site *sites, int count) {
  char name[96], scratch[128];
  file_name("sites-", module, name, sizeof name);
  size_t length = sf_append(scratch, sizeof scratch, 0, ".");
  length = sf_append(scratch, sizeof scratch, length, name);
  length = sf_append(scratch, sizeof scratch, length, ".");
  sf_append_number(scratch, sizeof scratch, length, (uint64_t)SF_SYS0(__NR_gettid), 10);
  long fd = SF_SYS4(__NR_openat, folder, scratch, kWriteOnly | kCreate | kExclusive | kNoFollow | kCloseOnExec, 0600);
  if (fd < 0) return false;
  FileHeader header = header_for(module, sites, (uint32_t)count);
  long bytes = (long)((size_t)count * sizeof(sf_site));
  bool whole = SF_SYS3(__NR_write, fd, &header, sizeof header) == (long)sizeof header &&
               SF_SYS3(__NR_write, fd, sites, bytes) == bytes &&
               SF_SYS2(__NR_fchmod, fd, mode) == 0;
  SF_SYS1(__NR_close, fd);
  if (whole && SF_SYS4(__NR_renameat, folder, scratch, folder, name) == 0) return true;
  SF_SYS3(__NR_unlinkat, folder, scratch, 0);
  return false;
}

// What the link says before the number: whose text it is about, and how it was judged.
size_t verdict_text(const sf_module *module, char *text, size_t room) {
  constexpr const char *kJudgement = "4 ";  // raised whenever the judgement changes
  size_t length = sf_append(text, room, 0, kJudgement);
  length = sf_append_number(text, room, length, module->text_end - module->text, 10);
  return sf_append(text, room, length, " ");
}

int verdict_from(const char *place, uint32_t uid, const sf_module *module) {
  int folder = open_place(place, uid);
  if (folder < 0) return -1;
  char name[96], expected[64], found[64];
  file_name("raw-", module, name, sizeof name);
  size_t length = verdict_text(module, expected, sizeof expected);
  long got = SF_SYS4(__NR_readlinkat, folder, name, found, sizeof found);
  SF_SYS1(__NR_close, folder);
  if (got != (long)length + 1 || __builtin_memcmp(found, expected, length)) return -1;
  return found[length] >= '0' && found[length] <= '9' ? found[length] - '0' : -1;
}

int open_place_to_store(const sf_cache_place *place, unsigned *mode) {
  int folder = place->uid == 0 ? open_place(kSystemPlace, 0) : -1;
  *mode = folder >= 0 ? 0644 : 0600;  // root's serves everybody
  return folder < 0 && place->user[0] ? open_or_make_place(place) : folder;
}

}  // namespace

void sf_cache_place_find(char **envp, sf_cache_place *place) {
  place->uid = (uint32_t)SF_SYS0(__NR_geteuid);
  place->user[0] = 0;
  const char *cache = sf_env(envp, "XDG_CACHE_HOME="), *home = sf_env(envp, "HOME=");
  const bool by_home = !cache || *cache != '/';
  const char *base = by_home ? home : cache;
  constexpr size_t kRoom = sizeof place->user;
  if (!base || *base != '/' || sf_text_length(base) > kRoom / 2 - 32) return;
  char *user = place->user;
  size_t length = sf_append(user, kRoom, 0, base);
  while (length > 1 && user[length - 1] == '/') length--;
  if (length == 1) length = 0;  // "/"
  user[length] = 0;
  if (by_home) length = sf_append(user, kRoom, length, "/.cache");
  const char *parent = sf_last_part(user);
  if (parent == user) return;  // "/" itself
  const size_t bytes = length + sizeof "/shortfuse";
  place->above = (uint16_t)bytes;
  const size_t above_bytes = (size_t)(parent - user) - 1;
  length = sf_append(user, kRoom, bytes, above_bytes ? user : "/");
  if (above_bytes) length = bytes + above_bytes;
  user[length] = 0;
  place->parent = (uint16_t)(length + 1);
  sf_append(user, kRoom, length + 1, parent);
  sf_append(user, kRoom, bytes - sizeof "/shortfuse", "/shortfuse");
}

void sf_cache_open(sf_cache_reader *reader, const sf_cache_place *place) {
  *reader = {place, {kNotTried, kNotTried}};
}

void sf_cache_close(sf_cache_reader *reader) {
  for (int folder : reader->folder)
    if (folder >= 0) SF_SYS1(__NR_close, folder);
}

int sf_cache_load(sf_cache_reader *reader, const sf_module *module, sf_site *sites) {
  if (!module->build_id_bytes) return -1;
  const sf_cache_place *place = reader->place;
  int *folder = reader->folder;
  if (folder[0] == kNotTried) folder[0] = open_place(kSystemPlace, 0);
  const int count = load_from(folder[0], 0, module, sites);
  if (count >= 0) return count;
  if (folder[1] == kNotTried) folder[1] = open_place(place->user, place->uid);
  return load_from(folder[1], place->uid, module, sites);
}

void sf_cache_store(const sf_cache_place *place, const sf_module *module, const sf_site *sites, int count) {
  if (!module->build_id_bytes || count <= 0) return;
  unsigned mode;
  int folder = open_place_to_store(place, &mode);
  if (folder < 0) return;
  store_in(folder, mode, module, sites, count);
  SF_SYS1(__NR_close, folder);
}

int sf_cache_load_verdict(const sf_cache_place *place, const sf_module *module) {
  if (!module->build_id_bytes) return -1;
  int verdict = verdict_from(kSystemPlace, 0, module);
  return verdict >= 0 ? verdict : verdict_from(place->user, place->uid, module);
}

void sf_cache_store_verdict(const sf_cache_place *place, const sf_module *module, unsigned verdict) {
  unsigned mode;
  int folder = module->build_id_bytes && verdict <= 9 ? open_place_to_store(place, &mode) : -1;
  if (folder < 0) return;
  char name[96], text[64];
  file_name("raw-", module, name, sizeof name);
  size_t length = verdict_text(module, text, sizeof text);
  sf_append_number(text, sizeof text, length, verdict, 10);
  // One that is out of date is in the way.
  if (SF_SYS3(__NR_symlinkat, text, folder, name) == -EEXIST) {
    SF_SYS3(__NR_unlinkat, folder, name, 0);
    SF_SYS3(__NR_symlinkat, text, folder, name);
  }
  SF_SYS1(__NR_close, folder);
}
