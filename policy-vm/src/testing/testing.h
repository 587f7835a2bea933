// For the tests: programs written as instructions, a host that records, and both ways to run a program.
#pragma once
#include <sys/mman.h>
#include <unistd.h>

#include <cstring>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "isa/host_functions.h"
#include "isa/insn.h"
#include "object/object.h"
#include "object/slots.h"
#include "shortfuse/vm/image.h"
#include "shortfuse/vm/map.h"
#include "shortfuse/vm/vm.h"
#include "verify/verifier.h"

namespace shortfuse::vm::testing {

using Code = std::vector<RawInsn>;

// ---- an assembler

constexpr RawInsn raw(int code, int dst, int src, int off, int64_t imm) {
  return {static_cast<uint8_t>(code), static_cast<uint8_t>(dst | src << 4), static_cast<int16_t>(off),
          static_cast<int32_t>(imm)};
}
constexpr int kAdd = 0x00, kSub = 0x10, kMul = 0x20, kDiv = 0x30, kOr = 0x40, kAnd = 0x50, kLsh = 0x60, kRsh = 0x70,
              kNeg = 0x80, kMod = 0x90, kXor = 0xa0, kMov = 0xb0, kArsh = 0xc0;
constexpr int kEq = 0x10, kGt = 0x20, kGe = 0x30, kSet = 0x40, kNe = 0x50, kSgt = 0x60, kSge = 0x70, kLt = 0xa0,
              kLe = 0xb0, kSlt = 0xc0, kSle = 0xd0;
constexpr int size_bits(int bytes) { return bytes == 8 ? 0x18 : bytes == 4 ? 0x00 : bytes == 2 ? 0x08 : 0x10; }

constexpr RawInsn alu_imm(int op, int dst, int64_t imm, int off = 0) {
  return raw(kClassAlu64 | op, dst, 0, off, imm);
}
constexpr RawInsn alu_reg(int op, int dst, int src, int off = 0) {
  return raw(kClassAlu64 | op | kSourceReg, dst, src, off, 0);
}
constexpr RawInsn alu32_imm(int op, int dst, int64_t imm, int off = 0) {
  return raw(kClassAlu | op, dst, 0, off, imm);
}
constexpr RawInsn alu32_reg(int op, int dst, int src, int off = 0) {
  return raw(kClassAlu | op | kSourceReg, dst, src, off, 0);
}
constexpr RawInsn mov(int dst, int64_t imm) { return alu_imm(kMov, dst, imm); }
constexpr RawInsn mov_reg(int dst, int src) { return alu_reg(kMov, dst, src); }
constexpr RawInsn load(int bytes, int dst, int src, int off) {
  return raw(kClassLdx | kModeMem | size_bits(bytes), dst, src, off, 0);
}
constexpr RawInsn load_sx(int bytes, int dst, int src, int off) {
  return raw(kClassLdx | kModeMemSx | size_bits(bytes), dst, src, off, 0);
}
constexpr RawInsn store(int bytes, int dst, int off, int src) {
  return raw(kClassStx | kModeMem | size_bits(bytes), dst, src, off, 0);
}
constexpr RawInsn store_imm(int bytes, int dst, int off, int64_t imm) {
  return raw(kClassSt | kModeMem | size_bits(bytes), dst, 0, off, imm);
}
constexpr RawInsn atomic(int bytes, int dst, int off, int src, int op) {
  return raw(kClassStx | kModeAtomic | size_bits(bytes), dst, src, off, op);
}
constexpr RawInsn jump_imm(int op, int dst, int64_t imm, int off) { return raw(kClassJmp | op, dst, 0, off, imm); }
constexpr RawInsn jump_reg(int op, int dst, int src, int off) {
  return raw(kClassJmp | op | kSourceReg, dst, src, off, 0);
}
constexpr RawInsn jump32_imm(int op, int dst, int64_t imm, int off) { return raw(kClassJmp32 | op, dst, 0, off, imm); }
constexpr RawInsn jump32_reg(int op, int dst, int src, int off) {
  return raw(kClassJmp32 | op | kSourceReg, dst, src, off, 0);
}
constexpr RawInsn go(int off) { return raw(kClassJmp, 0, 0, off, 0); }
constexpr RawInsn call(sf_host_id id) { return raw(kOpCall, 0, 0, 0, id); }
constexpr RawInsn call_local(int distance) { return raw(kOpCall, 0, kCallLocal, 0, distance); }
constexpr RawInsn call_reg(int r) { return raw(kOpCallReg, r, 0, 0, 0); }
constexpr RawInsn leave() { return raw(kOpExit, 0, 0, 0, 0); }

// Concatenates instructions and pairs of them.
inline Code operator+(Code a, const Code &b) { return a.insert(a.end(), b.begin(), b.end()), a; }
inline Code load64(int dst, uint64_t v) {
  return {raw(kOpLoadImm64, dst, kImmValue, 0, static_cast<int64_t>(static_cast<uint32_t>(v))),
          raw(0, 0, 0, 0, static_cast<int64_t>(v >> 32))};
}
inline Code load_map(int dst, int map) { return {raw(kOpLoadImm64, dst, kImmMap, 0, map), raw(0, 0, 0, 0, 0)}; }
inline Code load_value(int dst, int map, int off = 0) {
  return {raw(kOpLoadImm64, dst, kImmMapValue, 0, map), raw(0, 0, 0, 0, off)};
}

/// The address of sub-program `number` of assemble().
inline Code load_function(int dst, int number) {
  return {raw(kOpLoadImm64, dst, kImmFunction, 0, number), raw(0, 0, 0, 0, 0)};
}
/// The address of the function that begins `distance` instructions behind this pair.
inline Code load_function_at(int dst, int distance) {
  return {raw(kOpLoadImm64, dst, kImmFunction, 0, distance + 1), raw(0, 0, 0, 0, 0)};
}

// ---- maps, verifying, running

// Map 0: a HASH, u64 -> 16 bytes. 1: an ARRAY, u32 -> 16 bytes. 2: .rodata, 16 bytes "constant\0 ... 7 7 7 7".
// 3: .bss, 64 bytes. 4: a RINGBUF. 5: a PERCPU_ARRAY, u32 -> 16 bytes. 6: a PROG_ARRAY. 7: a QUEUE of 16 bytes. 8: a
// BLOOM_FILTER of 8. 9: an ARRAY_OF_MAPS like map 1.
enum TestMap { kHashMap, kArrayOfSixteen, kRodata, kBss, kRing, kPerCpu, kPrograms, kQueue, kBloom, kMapOfMaps };
std::vector<Policy::Map> test_maps();

/// `functions`: where sub-programs begin, if there are any.
LinkedProgram make_program(const Code &code, const std::string &section, std::vector<uint32_t> functions = {});
/// A program and its sub-programs; call_local() must know distances, load_function() takes numbers (0: the first).
LinkedProgram assemble(const Code &program, const std::vector<Code> &sub_programs, const std::string &section);
std::expected<Policy, Refusal> verified_policy(std::vector<LinkedProgram> programs,
                                               const std::vector<Policy::Map> &maps = test_maps(),
                                               uint64_t steps_max = kStepsMax);
/// The same without a verifier: every function uses `frame_bytes` of stack.
Policy trusted_policy(std::vector<LinkedProgram> programs, uint32_t frame_bytes = 64);

// An image mapped as a process would map it.
class Image {
 public:
  /// Every call goes through the host's table, which records them, unless it is told otherwise.
  static std::expected<Image, Refusal> publish(Policy policy, Lowering lowering, bool calls_inlined = false);
  Image(Image &&o) noexcept : base_(std::exchange(o.base_, nullptr)), bytes_(o.bytes_) {}
  Image &operator=(Image &&) = delete;
  ~Image() { if (base_) munmap(base_, bytes_); }
  const sf_image *get() const { return static_cast<const sf_image *>(base_); }
  size_t bytes() const { return bytes_; }
  bool compiled() const { return get()->code_bytes != 0; }
  /// Runs program i: its machine code, or its bytecode.
  uint64_t run_code(uint32_t i, void *ctx, sf_vm_env *env) const;
  uint64_t interpret(uint32_t i, void *ctx, sf_vm_env *env) const;
  const RawInsn *insns(uint32_t i) const {
    return reinterpret_cast<const RawInsn *>(static_cast<const char *>(base_) + get()->program[i].insns_offset);
  }

 private:
  Image(void *base, size_t bytes) : base_(base), bytes_(bytes) {}
  void *base_;
  size_t bytes_;
};

/// A policy's maps in memory of their own, with their initial contents, and an environment whose functions are the
/// virtual machine's. What hosts have besides is not there.
class RealMaps {
 public:
  explicit RealMaps(const std::vector<Policy::Map> &maps);
  ~RealMaps();
  RealMaps(const RealMaps &) = delete;
  std::vector<sf_map> handles;
  std::vector<void *> values;  ///< of arrays
  sf_vm_env env{};

 private:
  std::vector<sf_map *> addresses_;
  sf_host_fn table_[SF_HOST_COUNT] = {};
};

// A host whose functions write down how they were called, over its own storage for a policy's maps: one value per map,
// each an allocation of exactly its size. A lookup finds it for some keys and not for others; an iteration visits it a
// few times, with keys of its own.
class Host {
 public:
  explicit Host(const std::vector<Policy::Map> &maps = test_maps());
  sf_vm_env *env() { return &env_; }
  /// Everything that a run could have changed: for comparing two runs.
  struct Effects {
    std::vector<std::vector<uint64_t>> calls;
    std::vector<std::vector<unsigned char>> values;
    bool operator==(const Effects &) const = default;
  };
  Effects effects() const;
  void reset();
  unsigned char *value(uint32_t map) { return values_[map].get(); }

  std::string path;                          // what sf_path() says; "?" makes it answer -ENOENT
  std::vector<unsigned char> arguments;      // what sf_arg() and sf_reply() read
  int verdict = SF_SERVED;                   // of sf_serve_*()
  std::vector<std::vector<uint64_t>> calls;  // id, then numbers that do not depend on addresses

  /// The interpreter, every access checked against the context, the stack and the map values. What it did wrong, or
  /// "", or kOutOfFuel.
  std::string checked_run(const std::vector<uint64_t> &insns, unsigned slot, void *ctx, uint64_t *r0,
                          uint64_t fuel = 50'000'000);
  static constexpr const char *kOutOfFuel = "it did not end";
  /// The same for a program of which any time may be expected: one that may take longer than `fuel` is cut short there.
  std::string checked_run_in_short(const Policy::Program &p, void *ctx, uint64_t fuel = 2'000'000);

 private:
  friend struct Checker;
  template <int id> static uint64_t entry(uint64_t a, uint64_t b, uint64_t c, uint64_t d, uint64_t e, void *state) {
    if (sf_is_vm_function(id)) state = static_cast<sf_vm_env *>(state)->host_state;
    return static_cast<Host *>(state)->handle(id, a, b, c, d, e);
  }
  template <int id> static void fill(sf_host_fn *table) {
    table[id] = &entry<id>;
    if constexpr (id > 0) fill<id - 1>(table);
  }
  uint64_t handle(int id, uint64_t a, uint64_t b, uint64_t c, uint64_t d, uint64_t e);
  /// Of the map whose handle this is; their number when it is none.
  uint32_t map_index(uint64_t handle) const {
    uint32_t i = 0;
    while (i < handles_.size() && reinterpret_cast<uint64_t>(&handles_[i]) != handle) i++;
    return i;
  }
  uint64_t give_path(char *buffer, uint32_t size);
  uint64_t step(uint32_t map, sf_map_cursor *cursor);
  uint64_t reserve(uint64_t bytes);
  uint64_t give_back(uint64_t record, bool submit);
  uint64_t inner_of(uint64_t outer) const;

  std::vector<Policy::Map> maps_;
  sf_host_fn table_[SF_HOST_COUNT];
  sf_vm_env env_{};
  std::vector<std::unique_ptr<unsigned char[]>> values_;
  std::vector<std::unique_ptr<unsigned char[]>> keys_;
  struct Record { std::unique_ptr<unsigned char[]> bytes; uint64_t size; };
  std::vector<Record> records_;  // reserved in ring buffers and not given back
  std::vector<void *> addresses_;
  std::vector<sf_map> handles_;
  std::vector<sf_map *> handle_addresses_;
};

/// Fuel that a run can take at most, as far as the verifier says: between two rounds of any loop or callback
/// lies less than the program, and the rounds that were walked are among the steps.
uint64_t insns_max(const Policy::Program &p);

}  // namespace shortfuse::vm::testing
