// Images: is one well-formed, and run one. Freestanding: this, the interpreter and the names are all that the
// preloaded library has of the virtual machine.
#include "shortfuse/vm/image.h"

#include <errno.h>

#include "isa/host_functions.h"
#include "isa/insn.h"

#ifndef SF_CODE_ABI
#define SF_CODE_ABI 0  // builds for fuzzing
#endif

namespace {

using namespace shortfuse::vm;

constexpr uint32_t kPageBytes = 4096;

// [offset, offset + bytes) lies behind the header and inside the image.
bool inside(const sf_image &image, uint64_t offset, uint64_t bytes) {
  return offset >= sizeof(sf_image) && offset <= image.image_bytes && bytes <= image.image_bytes - offset;
}

template <uint32_t n> bool terminated(const char (&name)[n]) {
  for (char c : name) {
    if (c == 0) return true;
  }
  return false;
}

// Every opcode exists, every jump stays inside, every map and host function exists. What the instructions do with
// memory is the verifier's affair, which the daemon has asked.
bool code_well_formed(const sf_image &image, const RawInsn *code, uint32_t count) {
  for (uint32_t pc = 0; pc < count; pc++) {
    Insn in;
    if (decode_insn(code + pc, count - pc, &in)) return false;
    bool jumps =
        in.kind == Kind::Jump || in.kind == Kind::JumpAlways || (in.kind == Kind::Call && in.src == kCallLocal);
    if (jumps) {
      int64_t target = pc + in.distance();
      if (target < 0 || target >= count) return false;
    } else if (in.kind == Kind::Call) {
      // How many functions of an embedding application there are is known when a program runs.
      if (in.src != kCallHost || static_cast<uint32_t>(in.imm) >= SF_HOST_LIMIT) return false;
    } else if (in.kind == Kind::LoadImm64) {
      if (in.src > kImmMapValue && in.src != kImmFunction) return false;
      const int64_t function = pc + in.distance();
      if (in.src == kImmFunction && (function < 0 || function >= count)) return false;
      const bool of_map = in.src == kImmMap || in.src == kImmMapValue;
      if (of_map && static_cast<uint32_t>(in.imm) >= image.maps) return false;
      pc++;
    }
  }
  return true;
}

bool program_well_formed(const sf_image &image, uint32_t index) {
  const sf_image_program &p = image.program[index];
  if (p.slot >= SF_SLOTS || !terminated(p.name)) return false;
  // Chains only go forward, so they end.
  if (p.next != 0 && (p.next > image.programs || p.next <= index + 1 || image.program[p.next - 1].slot != p.slot)) {
    return false;
  }
  if (p.code_offset != 0) {
    if (p.code_offset < image.code_offset || p.code_offset - image.code_offset >= image.code_bytes) return false;
  }
  if (p.insns == 0 || p.insns_offset % 8 != 0) return false;
  if (!inside(image, p.insns_offset, uint64_t{p.insns} * sizeof(RawInsn))) return false;
  const char *base = reinterpret_cast<const char *>(&image);
  return code_well_formed(image, reinterpret_cast<const RawInsn *>(base + p.insns_offset), p.insns);
}

// Eight bytes at a time: an image has tens of kilobytes and is looked at by every process.
uint64_t add_words(uint64_t h, const void *data, uint64_t bytes) {
  const auto *p = static_cast<const unsigned char *>(data);
  for (uint64_t i = 0; i < bytes; i += 8) {
    uint64_t word = 0;
    for (uint64_t b = 0; b < 8 && bytes - i < 8 && b < bytes - i; b++) word |= uint64_t{p[i + b]} << 8 * b;
    if (bytes - i >= 8) __builtin_memcpy(&word, p + i, 8);
    h = (h ^ word) * 0x9fb21c651e98df25ull;
    h ^= h >> 32;
  }
  return h;
}

uint64_t run_program(const sf_image *image, const sf_image_program &p, void *ctx, struct sf_vm_env *env) {
  const char *base = reinterpret_cast<const char *>(image);
  if (!p.code_offset) return sf_interpret(base + p.insns_offset, p.insns, ctx, env);
  return reinterpret_cast<sf_image_entry>(reinterpret_cast<uintptr_t>(base + p.code_offset))(ctx, env);
}

int clamp(uint64_t r0) {
  int32_t verdict = static_cast<int32_t>(r0);
  return verdict == SF_SERVED || (verdict < 0 && verdict >= -4095) ? verdict : SF_PASS;
}

}  // namespace

extern "C" uint64_t sf_image_key(const struct sf_image *image) {
  const char *base = reinterpret_cast<const char *>(image);
  const uint64_t build[] = {SF_CODE_ABI, SF_ABI_VERSION, SF_IMAGE_FORMAT, image->image_bytes, image->code_offset};
  uint64_t key = add_words(0, build, sizeof build);
  key = add_words(key, image->map, image->maps * sizeof image->map[0]);
  key = add_words(key, image->program, image->programs * sizeof image->program[0]);
  for (uint32_t i = 0; i < image->programs; i++) {
    const sf_image_program &p = image->program[i];
    key = add_words(key, base + p.insns_offset, uint64_t{p.insns} * sizeof(RawInsn));
  }
  return add_words(key, base + image->code_offset, image->code_bytes);
}

extern "C" int sf_image_check(const void *bytes_of_image, size_t bytes) {
  if (bytes < sizeof(sf_image) || reinterpret_cast<uintptr_t>(bytes_of_image) % alignof(sf_image) != 0) return -EINVAL;
  const sf_image &image = *static_cast<const sf_image *>(bytes_of_image);
  if (image.magic != SF_IMAGE_MAGIC) return -EINVAL;
  if (image.format != SF_IMAGE_FORMAT || image.abi != SF_ABI_VERSION) return -ENOEXEC;
  if (image.image_bytes > bytes) return -EINVAL;
  if (image.programs > SF_IMAGE_PROGRAMS_MAX || image.maps > SF_IMAGE_MAPS_MAX) return -EINVAL;
  if (image.code_bytes != 0) {
    if (image.code_offset % kPageBytes != 0 || !inside(image, image.code_offset, image.code_bytes)) return -EINVAL;
  }
  for (uint32_t i = 0; i < image.maps; i++) {
    if (!terminated(image.map[i].name)) return -EINVAL;
  }
  for (uint32_t i = 0; i < image.programs; i++) {
    if (!program_well_formed(image, i)) return -EINVAL;
  }
  for (uint32_t slot = 0; slot < SF_SLOTS; slot++) {
    uint32_t first = image.first[slot];
    if (first != 0 && (first > image.programs || image.program[first - 1].slot != slot)) return -EINVAL;
  }
  return sf_image_key(&image) == image.key ? 0 : -ENOEXEC;
}

extern "C" uint64_t sf_program_run(const struct sf_image *image, uint32_t index, void *ctx, struct sf_vm_env *env) {
  env->image = image;
  env->slot = image->program[index].slot;
  env->fuel = SF_RUN_FUEL;
  env->tail_calls = 0;
  env->open_records = 0;
  uint64_t r0 = SF_PASS;
  for (uint32_t program = index + 1; program != 0; program = env->next_program) {
    env->next_program = 0;
    r0 = run_program(image, image->program[program - 1], ctx, env);
  }
  if (env->open_records != 0) [[unlikely]] sf_vm_discard_open(env);
  return r0;
}

extern "C" int sf_policy_run(const struct sf_image *image, unsigned slot, void *ctx, struct sf_vm_env *env) {
  if (slot >= SF_SLOTS) return SF_PASS;
  for (uint32_t i = image->first[slot]; i != 0; i = image->program[i - 1].next) {
    int verdict = clamp(sf_program_run(image, i - 1, ctx, env));
    if (verdict != SF_PASS && slot < SF_SLOT_FUSE_EXIT) return verdict;
  }
  return SF_PASS;
}
