// From a verified chain to an image in a sealed memfd.
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <utility>

#include "publish/compiler.h"
#include "shortfuse/vm/vm.h"

#ifndef MFD_EXEC
#define MFD_EXEC 0x0010U
#endif

namespace shortfuse::vm {
namespace {

constexpr size_t kPageBytes = 4096;

size_t round_up(size_t n, size_t to) { return (n + to - 1) / to * to; }

// ---- the image

void link_chains(const Policy &policy, sf_image *image) {
  uint32_t last[SF_SLOTS] = {};
  for (uint32_t i = 0; i < image->programs; i++) {
    if (!policy.programs[i].info.attached) continue;
    uint32_t slot = image->program[i].slot;
    if (last[slot]) image->program[last[slot] - 1].next = i + 1;
    else image->first[slot] = i + 1;
    last[slot] = i + 1;
  }
}

std::vector<unsigned char> build_image(const Policy &policy, const MachineCode *code) {
  size_t bytes = sizeof(sf_image);
  for (const Policy::Program &p : policy.programs) bytes += p.insns.size() * sizeof(uint64_t);
  size_t code_offset = code ? round_up(bytes, kPageBytes) : 0;
  size_t total = code ? code_offset + code->bytes.size() : bytes;
  std::vector<unsigned char> out(round_up(total, kPageBytes));
  auto *image = reinterpret_cast<sf_image *>(out.data());
  image->magic = SF_IMAGE_MAGIC;
  image->format = SF_IMAGE_FORMAT;
  image->abi = SF_ABI_VERSION;
  image->image_bytes = out.size();
  image->programs = static_cast<uint32_t>(policy.programs.size());
  image->maps = static_cast<uint32_t>(policy.maps.size());
  for (size_t i = 0; i < policy.maps.size(); i++) image->map[i] = policy.maps[i].def;
  size_t at = sizeof(sf_image);
  for (size_t i = 0; i < policy.programs.size(); i++) {
    const Policy::Program &p = policy.programs[i];
    sf_image_program &entry = image->program[i];
    entry.slot = p.info.slot;
    entry.object = p.object;
    entry.insns = static_cast<uint32_t>(p.insns.size());
    entry.insns_offset = static_cast<uint32_t>(at);
    memcpy(entry.name, p.info.name.data(), std::min(p.info.name.size(), sizeof entry.name - 1));
    memcpy(out.data() + at, p.insns.data(), p.insns.size() * sizeof(uint64_t));
    at += p.insns.size() * sizeof(uint64_t);
    if (code && code->entry[i] != ~0u) entry.code_offset = static_cast<uint32_t>(code_offset + code->entry[i]);
  }
  link_chains(policy, image);
  if (code) {
    image->code_offset = static_cast<uint32_t>(code_offset);
    image->code_bytes = static_cast<uint32_t>(code->bytes.size());
    memcpy(out.data() + code_offset, code->bytes.data(), code->bytes.size());
  }
  image->key = sf_image_key(image);
  return out;
}

// ---- the memfd

class Memfd {
 public:
  // Executable mappings may need to be asked for; kernels before 6.3 do not know the flag.
  explicit Memfd(const char *name) : fd_(memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_EXEC)) {
    if (fd_ < 0) fd_ = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
  }
  ~Memfd() { if (fd_ >= 0) close(fd_); }
  Memfd(const Memfd &) = delete;
  Memfd &operator=(const Memfd &) = delete;
  int get() const { return fd_; }
  int release() { return std::exchange(fd_, -1); }

  bool fill_and_seal(const std::vector<unsigned char> &bytes) {
    for (size_t done = 0; done < bytes.size();) {
      ssize_t n = pwrite(fd_, bytes.data() + done, bytes.size() - done, static_cast<off_t>(done));
      if (n < 0 && errno == EINTR) continue;
      if (n <= 0) return false;
      done += static_cast<size_t>(n);
    }
    return fcntl(fd_, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) == 0;
  }

  bool executable(size_t bytes) const {
    void *p = mmap(nullptr, bytes, PROT_READ | PROT_EXEC, MAP_PRIVATE, fd_, 0);
    if (p == MAP_FAILED) return false;
    munmap(p, bytes);
    return true;
  }

 private:
  int fd_;
};

std::expected<PublishedImage, Refusal> publish_bytes(const std::vector<unsigned char> &bytes) {
  Memfd memfd("shortfuse-image");
  if (memfd.get() < 0 || !memfd.fill_and_seal(bytes)) {
    return std::unexpected(
        Refusal{"image-memory", std::string("cannot make the policy's image: ") + strerror(errno), ""});
  }
  return PublishedImage{memfd.release(), bytes.size(), ""};
}

// Nothing is said of machine code that was not used but made anew.
std::string with_notes(const Policy &policy, std::string why) {
  if (why.empty()) return why;
  for (const std::string &note : policy.notes) why += "; " + note;
  return why;
}

}  // namespace

std::expected<PublishedImage, Refusal> publish_image(const Policy &policy, Lowering lowering) {
  if (policy.programs.size() > SF_IMAGE_PROGRAMS_MAX || policy.maps.size() > SF_IMAGE_MAPS_MAX) {
    return std::unexpected(Refusal{"too-many-programs", "the chain has too many programs or maps for an image", ""});
  }
  std::string why = "machine code was not asked for";
  if (lowering != Lowering::InterpretOnly) {
    auto code = machine_code(policy);
    if (!code) why = code.error();
    // Without a compiler, at least what was compiled ahead of time.
    if (!code && lowering == Lowering::Auto && !policy.code_blocks.empty()) {
      code = precompiled_code(policy);
      why = "some programs: " + why;
    } else if (code) {
      why.clear();
    }
    if (code) {
      auto bytes = build_image(policy, &*code);
      Memfd memfd("shortfuse-image");
      if (memfd.get() >= 0 && memfd.fill_and_seal(bytes) && memfd.executable(bytes.size()))
        return PublishedImage{memfd.release(), bytes.size(), with_notes(policy, why)};
      why = std::string("this machine does not let shared memory be executed: ") + strerror(errno);
    }
    if (lowering == Lowering::Required)
      return std::unexpected(Refusal{"lowering-failed", "no machine code: " + why, ""});
  }
  auto published = publish_bytes(build_image(policy, nullptr));
  if (published) published->why_interpreted = with_notes(policy, why);
  return published;
}

}  // namespace shortfuse::vm
