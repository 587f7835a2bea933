// From files to a verified chain: read, link, verify.
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <unordered_map>

#include "isa/host_functions.h"
#include "object/elf_file.h"
#include "object/object.h"
#include "object/settings.h"
#include "publish/precompiled.h"
#include "refusals.h"
#include "shortfuse/vm/vm.h"
#include "verify/verifier.h"

namespace shortfuse::vm {
namespace {

constexpr uint64_t kChainStepsMax = 10 * uint64_t{kStepsMax};

// Names out of an object go into one-line messages: nothing in them may steer a terminal or break a line.
std::string printable(std::string s, bool lines) {
  for (char &c : s) {
    if (static_cast<unsigned char>(c) < 0x20 && !(lines && c == '\n')) c = '?';
    if (c == 0x7f) c = '?';
  }
  return s;
}

std::unexpected<Refusal> refused(const Refusal &r) {
  Refusal out = r;
  complete(&out);
  for (std::string *line : {&out.text, &out.reason, &out.file, &out.source, &out.insn_text, &out.needed, &out.known,
                            &out.suggestion})
    *line = printable(*line, false);
  out.detail = printable(out.detail, true);
  for (RefusalStep &step : out.path) {
    for (std::string *line : {&step.file, &step.source, &step.what}) *line = printable(*line, false);
  }
  return std::unexpected(std::move(out));
}

struct Descriptor {
  int fd = -1;
  ~Descriptor() { if (fd >= 0) close(fd); }
};

std::expected<std::vector<unsigned char>, Refusal> read_file(const std::string &path) {
  auto fail = [&](const std::string &why) {
    return std::unexpected(Refusal{"file-unreadable", "cannot read policy " + path + ": " + why, ""});
  };
  Descriptor file{open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)};
  struct stat st;
  if (file.fd < 0 || fstat(file.fd, &st) != 0) return fail(strerror(errno));
  if (!S_ISREG(st.st_mode)) return fail("not a regular file");
  if (static_cast<uint64_t>(st.st_size) > kElfBytesMax) return fail("larger than 16 MiB");
  std::vector<unsigned char> bytes(static_cast<size_t>(st.st_size));
  size_t got = 0;
  while (got < bytes.size()) {
    ssize_t n = read(file.fd, bytes.data() + got, bytes.size() - got);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return fail(strerror(errno));
    if (n == 0) break;
    got += static_cast<size_t>(n);
  }
  bytes.resize(got);
  // Machine code is trusted as a program is.
  const bool ours = st.st_uid == 0 || st.st_uid == geteuid();
  if (is_precompiled(bytes.data(), bytes.size()) && (!ours || (st.st_mode & (S_IWGRP | S_IWOTH)) != 0)) {
    return refused({"file-untrusted", path + ": a compiled policy must belong to root or to you, and only its owner " +
                                          "may be able to write it", ""});
  }
  return bytes;
}

// Policies attach one function to many operations. A program equal to one that was accepted on the same side is
// accepted too, where it may call what it calls.
class Accepted {
 public:
  struct Entry { std::vector<RawInsn> completed; Verified verified; };

  const Entry *find(const LinkedProgram &p) const {
    auto entry = entries_.find(key(p));
    if (entry == entries_.end()) return nullptr;
    for (uint32_t pc = 0; pc < p.code.size(); pc += p.code[pc].code == kOpLoadImm64 ? 2 : 1) {
      const RawInsn &in = p.code[pc];
      if (in.code != kOpCall || in.src() != kCallHost) continue;
      const HostFunction *f = p.target->function(static_cast<uint32_t>(in.imm));
      if (f && !p.target->callable(*f, p.slot)) return nullptr;  // without f: no path leads there
    }
    return &entry->second;
  }
  static std::string key(const LinkedProgram &p) {
    std::string k(1, static_cast<char>(side_of_slot(p.slot)));
    for (const LinkedFunction &f : p.functions) k.append(reinterpret_cast<const char *>(&f.start), sizeof f.start);
    return k.append(reinterpret_cast<const char *>(p.code.data()), p.code.size() * sizeof(RawInsn));
  }
  void add(std::string key, const LinkedProgram &p, const Verified &v) { entries_[std::move(key)] = {p.code, v}; }

 private:
  std::unordered_map<std::string, Entry> entries_;
};

std::expected<Verified, Refusal> verify_once(Accepted *accepted, LinkedProgram *program, const Policy &policy,
                                             const std::string &object, uint64_t *steps_left) {
  if (const Accepted::Entry *known = accepted->find(*program)) {
    program->code = known->completed;
    return known->verified;
  }
  std::string key = Accepted::key(*program);
  auto verified = verify_program(program, policy.maps, object, steps_left);
  if (verified) accepted->add(std::move(key), *program, *verified);
  return verified;
}

std::vector<uint64_t> words(const std::vector<RawInsn> &code) {
  std::vector<uint64_t> out(code.size());
  memcpy(out.data(), code.data(), code.size() * sizeof(RawInsn));
  return out;
}

// Verifies what a file holds and puts it behind what the chain has.
std::expected<void, Refusal> add_programs(Policy *policy, std::vector<Policy::Map> maps,
                                          std::vector<LinkedProgram> programs, const std::string &shown,
                                          uint64_t *steps_left) {
  for (Policy::Map &map : maps) policy->maps.push_back(std::move(map));
  if (policy->programs.size() + programs.size() > SF_IMAGE_PROGRAMS_MAX) {
    return refused({"too-many-programs", shown + ": the chain has more than 256 programs", ""});
  }
  Accepted accepted;
  for (LinkedProgram &program : programs) {
    Policy::Program out;
    out.linked = words(program.code);
    auto verified = verify_once(&accepted, &program, *policy, shown, steps_left);
    if (!verified) return refused(verified.error());
    out.object = static_cast<uint32_t>(policy->paths.size());
    out.stack_bytes = verified->stack_bytes;
    out.info = {printable(program.section, false), printable(program.name, false), program.slot,
                static_cast<uint32_t>(program.code.size()), verified->steps, program.attached,
                verified->rounds};
    out.insns = words(program.code);
    for (const LinkedFunction &f : program.functions) out.functions.push_back({f.name, f.start, f.end});
    policy->programs.push_back(std::move(out));
  }
  return {};
}

LinkPlace next_place(const Target &target, const Policy &policy) {
  return {static_cast<uint32_t>(policy.paths.size()), static_cast<uint32_t>(policy.maps.size()),
          static_cast<uint32_t>(policy.programs.size()), &target};
}

// Adds one object to the chain.
std::expected<void, Refusal> add_object(const Target &target, Policy *policy, const void *elf, size_t bytes,
                                        const std::string &name, uint64_t *steps_left, Settings *settings) {
  const std::string shown = name.substr(name.find_last_of('/') + 1);
  auto file = ElfFile::read(elf, bytes);
  if (!file) return refused({file.error().code, shown + ": " + file.error().text, file.error().detail});
  if (settings) {
    if (auto ok = settings->apply(&*file); !ok) return refused({"setting-malformed", shown + ": " + ok.error(), ""});
  }
  auto linked = link_object(*file, shown, next_place(target, *policy));
  if (!linked) return refused(linked.error());
  auto ok = add_programs(policy, std::move(linked->maps), std::move(linked->programs), shown, steps_left);
  policy->paths.push_back(name);
  return ok;
}

// Adds what was compiled ahead of time. Its machine code is used if it was made for exactly this.
std::expected<void, Refusal> add_precompiled(const Target &target, Policy *policy, const void *bytes, size_t size,
                                             const std::string &name, uint64_t *steps_left) {
  const std::string shown = name.substr(name.find_last_of('/') + 1);
  const LinkPlace place = next_place(target, *policy);
  auto file = read_precompiled(bytes, size, shown, place);
  if (!file) return refused(file.error());
  const bool maps_where_they_were = place.first_map == 0 || file->maps.empty();
  auto ok = add_programs(policy, std::move(file->maps), std::move(file->programs), shown, steps_left);
  if (!ok) return ok;
  policy->paths.push_back(name);
  if (!maps_where_they_were) {
    policy->notes.push_back(shown + ": its machine code is not used: it knows its maps by their numbers, and other "
                                    "files with maps come before it");
  } else if (!is_own_compiler(file->compiler)) {
    policy->notes.push_back(shown + ": its machine code is not used: it was made by LLVM " +
                            printable(file->compiler, false) + ", which this shortfuse was not built with");
  } else if (file->key != code_key(policy->maps, policy->programs, place.first_map, place.first_program)) {
    policy->notes.push_back(shown + ": its machine code is not used: it was made for another version of shortfuse, or "
                                    "another machine");
  } else {
    policy->code_blocks.push_back(std::move(file->code));
    for (size_t i = 0; i < file->entries.size(); i++) {
      Policy::Program &p = policy->programs[place.first_program + i];
      if (file->entries[i] == kNoEntry) continue;
      p.code_block = static_cast<int32_t>(policy->code_blocks.size()) - 1;
      p.code_entry = file->entries[i];
    }
  }
  return {};
}

}  // namespace

std::expected<Policy, Refusal> load_policy(const Target &target, const std::vector<std::string> &paths,
                                           const std::vector<Setting> &settings) {
  Policy policy;
  Settings wanted(settings);
  uint64_t steps_left = kChainStepsMax;
  if (paths.empty()) return refused({"no-programs", "no policy is named", ""});
  for (const std::string &path : paths) {
    auto bytes = read_file(path);
    if (!bytes) return refused(bytes.error());
    const bool compiled = is_precompiled(bytes->data(), bytes->size());
    auto ok = compiled ? add_precompiled(target, &policy, bytes->data(), bytes->size(), path, &steps_left)
                       : add_object(target, &policy, bytes->data(), bytes->size(), path, &steps_left, &wanted);
    if (!ok) return std::unexpected(ok.error());
  }
  if (auto used = wanted.all_used(); !used) return refused({"setting-unknown", used.error(), ""});
  return policy;
}

std::expected<Policy, Refusal> load_policy_bytes(const Target &target, const void *elf, size_t bytes,
                                                 const std::string &name) {
  Policy policy;
  uint64_t steps_left = kChainStepsMax;
  auto ok = add_object(target, &policy, elf, bytes, name, &steps_left, nullptr);
  if (!ok) return std::unexpected(ok.error());
  return policy;
}

std::expected<Policy, Refusal> load_trace(const std::vector<std::string> &paths, const std::vector<Setting> &settings) {
  return load_policy(Target::trace(), paths, settings);
}

std::expected<Policy, Refusal> load_policy(const std::vector<std::string> &paths) {
  return load_policy(Target::shortfuse(), paths);
}

std::expected<Policy, Refusal> load_policy_bytes(const void *elf, size_t bytes, const std::string &name) {
  return load_policy_bytes(Target::shortfuse(), elf, bytes, name);
}

}  // namespace shortfuse::vm
