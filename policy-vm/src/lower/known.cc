#include "lower/known.h"

#include <algorithm>

#include "isa/host_functions.h"

namespace shortfuse::vm {
namespace {

using Null = Known::Null;

constexpr Known kAddress{Known::Kind::Pointer};

Known moved(const Known &address, int64_t by) {
  if (address.kind != Known::Kind::MapValue) return kAddress;
  return {Known::Kind::MapValue, Null::Never, address.map, address.offset + by};
}

Known sum(const Insn &in, const Known &a, const Known &b) {
  const bool minus = in.alu == AluOp::Sub;
  if (a.null != Null::Never || (in.from_reg && b.null != Null::Never)) return {};
  if (!in.from_reg) return a.is_address() ? moved(a, minus ? -int64_t{in.imm} : int64_t{in.imm}) : Known{};
  if (a.is_address() && b.is_address()) return {};
  if (a.is_address() || (b.is_address() && !minus)) return kAddress;
  return {};
}

Known meet(const Known &a, const Known &b) {
  if (a == b) return a;
  if (!a.is_address() || !b.is_address()) return {};
  return {Known::Kind::Pointer, a.null == b.null ? a.null : Null::Possible};
}

// Where register r is not NULL.
void is_not_null(uint8_t r, KnownRegisters *known) {
  const Null was = (*known)[r].null;
  (*known)[r].null = Null::Never;
  if (was != Null::Latest) return;
  for (Known &other : *known) {  // those are the same
    if (other.null == Null::Latest) other.null = Null::Never;
  }
}

// What an address returned before is not what is returned now. `map`: in which it was looked up, if that is known.
void returned_address(KnownRegisters *known, const Known &map) {
  for (Known &k : *known) {
    if (k.null == Null::Latest) k.null = Null::Possible;
  }
  (*known)[0] = {Known::Kind::Pointer, Null::Latest};
  if (map.kind == Known::Kind::Map) (*known)[0] = {Known::Kind::Found, Null::Latest, map.map};
}

}  // namespace

bool returns_address(uint32_t id) {
  return id < SF_HOST_COUNT && (kHostFunctions[id].result == Result::MapValueOrNull ||
                                kHostFunctions[id].result == Result::RingRecordOrNull);
}

void step(const Insn &in, KnownRegisters *known) {
  Known &d = (*known)[in.dst];
  switch (in.kind) {
    case Kind::Alu:
      if (!in.wide || in.extend_bits) d = {};
      else if (in.alu == AluOp::Mov) d = in.from_reg ? (*known)[in.src] : Known{};
      else if (in.alu == AluOp::Add || in.alu == AluOp::Sub) d = sum(in, d, (*known)[in.src]);
      else d = {};
      break;
    case Kind::LoadImm64:
      d = {};
      if (in.src == kImmMap) d = {Known::Kind::Map, Null::Never, static_cast<uint32_t>(in.imm), 0};
      if (in.src == kImmMapValue) {
        d = {Known::Kind::MapValue, Null::Never, static_cast<uint32_t>(in.imm), static_cast<uint32_t>(in.imm_high)};
      }
      break;
    case Kind::Endian: case Kind::Load: d = {}; break;
    case Kind::Atomic:
      if (in.atomic == AtomicOp::Cmpxchg) (*known)[0] = {};
      else if (in.fetch) (*known)[in.src] = {};
      break;
    case Kind::Call: case Kind::CallReg: {
      const Known map = in.kind == Kind::Call && in.imm == SF_HOST_MAP_LOOKUP ? (*known)[1] : Known{};
      for (int r = 0; r <= 5; r++) (*known)[static_cast<size_t>(r)] = {};
      if (in.kind == Kind::Call && in.src == kCallHost && returns_address(static_cast<uint32_t>(in.imm)))
        returned_address(known, map);
      break;
    }
    default: break;
  }
}

std::map<uint32_t, KnownRegisters> know_blocks(const RawInsn *code, uint32_t count, uint32_t start, bool is_program,
                                               const std::vector<uint32_t> &blocks) {
  std::map<uint32_t, KnownRegisters> known;
  std::vector<uint32_t> work{start};
  KnownRegisters &entry = known[start];
  entry[kFramePointer] = kAddress;
  if (is_program) entry[1] = kAddress;
  auto reach = [&](uint32_t pc, const KnownRegisters &from) {
    auto [at, is_new] = known.try_emplace(pc, from);
    KnownRegisters met = at->second;
    for (size_t r = 0; r < met.size(); r++) met[r] = meet(met[r], from[r]);
    if (!is_new && met == at->second) return;
    at->second = met;
    work.push_back(pc);
  };
  while (!work.empty()) {
    uint32_t pc = work.back();
    work.pop_back();
    KnownRegisters now = known[pc];
    while (pc < count) {
      Insn in;
      decode_insn(code + pc, count - pc, &in);
      step(in, &now);
      KnownRegisters there = now;
      if (in.kind == Kind::Jump && in.wide && !in.from_reg && in.imm == 0) {
        if (in.jump == JumpOp::Ne) is_not_null(in.dst, &there);
        if (in.jump == JumpOp::Eq) is_not_null(in.dst, &now);
      }
      if (in.kind == Kind::Jump || in.kind == Kind::JumpAlways) reach(static_cast<uint32_t>(pc + in.distance()), there);
      if (in.kind == Kind::Exit || in.kind == Kind::JumpAlways) break;
      pc += in.slots();
      if (std::binary_search(blocks.begin(), blocks.end(), pc)) {
        reach(pc, now);
        break;
      }
    }
  }
  return known;
}

}  // namespace shortfuse::vm
