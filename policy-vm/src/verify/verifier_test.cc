// The verifier's rules. Each has programs on both sides of it: an accepted one and its refused neighbour, with the
// message that a person gets.
#include "verify/verifier.h"

#include <gtest/gtest.h>

#include "testing/testing.h"

namespace shortfuse::vm {
namespace {

using namespace testing;

constexpr int kNode = offsetof(sf_fuse_ctx, node);

struct Case {
  const char *name;
  const char *section;
  Code code;
  const char *refusal = nullptr;  // its code without "verify-"; NULL: accepted
  const char *text = "";          // part of the line
  const char *detail = "";        // part of the rest
  std::vector<uint32_t> functions = {};
};

Code pass() { return {mov(0, 0), leave()}; }
// r0 = lookup in the HASH with ctx->node as the key.
Code lookup() {
  return Code{load(8, 2, 1, kNode), store(8, 10, -8, 2), mov_reg(2, 10), alu_imm(kAdd, 2, -8)} + load_map(1, 0) +
         Code{call(SF_HOST_MAP_LOOKUP)};
}

const Case kCases[] = {
    // ---- shape
    {"exit at the end", "fuse/read", pass()},
    {"no exit", "fuse/read", {mov(0, 0)}, "falls-off", "can run past its last instruction", "instruction 0: r0 = 0"},
    {"jump over an instruction", "fuse/read",
     Code{mov(0, 0), load(8, 2, 1, kNode), jump_imm(kEq, 2, 0, 1), mov(0, 1), leave()}},
    {"jump out",
     "fuse/read",
     {mov(0, 0), jump_imm(kEq, 0, 0, 9), leave()},
     "jump-out-of-range",
     "the jump leaves its function"},
    {"jump out backwards",
     "fuse/read",
     {mov(0, 0), go(-5), leave()},
     "jump-out-of-range",
     "the jump leaves its function"},
    {"jump into a constant", "fuse/read", Code{mov(0, 0), jump_imm(kEq, 1, 0, 1)} + load64(2, 5) + Code{leave()},
     "jump-out-of-range", "lands inside an instruction"},
    {"dead code",
     "fuse/read",
     {mov(0, 0), leave(), mov(0, 1), leave()},
     "unreachable",
     "nothing reaches this instruction",
     "instruction 2"},
    {"unknown opcode",
     "fuse/read",
     {raw(0xff, 0, 0, 0, 0), leave()},
     "insn-malformed",
     "unknown opcode",
     "not an instruction"},
    {"no such register",
     "fuse/read",
     {raw(kClassAlu64 | kMov, 12, 0, 0, 0), leave()},
     "insn-malformed",
     "there is no such register"},
    {"half a constant", "fuse/read", {raw(kOpLoadImm64, 1, 0, 0, 0)}, "insn-malformed", "lacks its second half"},
    {"call by register",
     "fuse/read",
     {raw(kClassJmp | kCall | kSourceReg, 1, 0, 0, 0), leave()},
     "call-address",
     "what is called is not a function"},

    // ---- registers
    {"verdict in r0", "fuse/read", {alu32_imm(kMov, 0, -13), leave()}},
    {"no verdict", "fuse/read", {leave()}, "return-value", "may end without a verdict in r0", "r0 is nothing yet"},
    {"address as verdict",
     "fuse/read",
     {mov_reg(0, 1), leave()},
     "return-value",
     "may return an address",
     "r0 is the context"},
    {"read of an unset register",
     "fuse/read",
     {mov_reg(0, 5), leave()},
     "uninitialised",
     "register r5 is read",
     "needed: a value in r5"},
    {"set on one path only",
     "fuse/read",
     {load(8, 2, 1, kNode), jump_imm(kEq, 2, 0, 1), mov(0, 0), leave()},
     "return-value",
     "without a verdict"},
    {"r6 survives a call", "fuse/read", {mov_reg(6, 1), call(SF_HOST_KTIME), load(8, 0, 6, kNode), leave()}},
    {"r1 does not survive a call",
     "fuse/read",
     {call(SF_HOST_KTIME), load(8, 0, 1, kNode), leave()},
     "uninitialised",
     "register r1 is read"},
    {"r10 is read", "fuse/read", {mov_reg(2, 10), mov(0, 0), leave()}},
    {"r10 is changed",
     "fuse/read",
     {alu_imm(kAdd, 10, -8), mov(0, 0), leave()},
     "frame-pointer",
     "r10, the address of the stack, cannot be changed"},

    // ---- context
    {"last field of syscall's context", "syscall/stat", {load(4, 0, 1, sizeof(sf_syscall_ctx) - 4), leave()}},
    {"behind syscall's context",
     "syscall/stat",
     {load(4, 0, 1, sizeof(sf_syscall_ctx)), leave()},
     "context-bounds",
     "outside of the context",
     "offset + 4 <= 64"},
    {"last field of fuse's context", "fuse/read", {load(4, 0, 1, 68), leave()}},
    {"behind fuse's context",
     "fuse/read",
     {load(4, 0, 1, 72), leave()},
     "context-bounds",
     "outside of the context",
     "offset is 72, 4 bytes"},
    {"the reply's length, in fuse_exit",
     "fuse_exit/read",
     {load(4, 0, 1, offsetof(sf_fuse_exit_ctx, reply_bytes)), leave()}},
    {"before the context",
     "fuse/read",
     {load(8, 0, 1, -8), leave()},
     "context-bounds",
     "outside of the context",
     "offset is -8"},
    {"one byte of a field", "fuse/read", {load(1, 0, 1, 17), leave()}},
    {"misaligned field",
     "fuse/read",
     {load(8, 0, 1, 12), leave()},
     "context-bounds",
     "across its alignment",
     "a multiple of 8"},
    {"moved context pointer", "fuse/read", {alu_imm(kAdd, 1, 8), load(8, 0, 1, kNode - 8), leave()}},
    {"context at an unknown offset",
     "fuse/read",
     {load(1, 2, 1, 0), alu_reg(kAdd, 1, 2), load(1, 0, 1, 0), leave()},
     "context-bounds",
     "a number that is not known is added to the context's address"},
    {"write to the context",
     "fuse/read",
     {store_imm(8, 1, 0, 5), mov(0, 0), leave()},
     "context-write",
     "the context is read-only"},

    // ---- stack
    {"stack written and read", "fuse/read", {store_imm(8, 10, -512, 1), load(8, 0, 10, -512), leave()}},
    {"below the stack",
     "fuse/read",
     {store_imm(8, 10, -520, 1), mov(0, 0), leave()},
     "stack-bounds",
     "may lie outside of the stack",
     "offset is -520, 8 bytes"},
    {"above the stack",
     "fuse/read",
     {store_imm(8, 10, 0, 1), mov(0, 0), leave()},
     "stack-bounds",
     "may lie outside of the stack"},
    {"across the stack's top",
     "fuse/read",
     {store_imm(8, 10, -4, 1), mov(0, 0), leave()},
     "stack-bounds",
     "may lie outside of the stack",
     "offset + 8 <= 0"},
    {"unwritten stack",
     "fuse/read",
     {load(8, 0, 10, -8), leave()},
     "stack-uninitialised",
     "not written on this path",
     "nothing was written at offset -8"},
    {"half written stack",
     "fuse/read",
     {store_imm(4, 10, -8, 1), load(8, 0, 10, -8), leave()},
     "stack-uninitialised",
     "not written",
     "at offset -4"},
    {"two halves", "fuse/read", {store_imm(4, 10, -8, 1), store_imm(4, 10, -4, 1), load(8, 0, 10, -8), leave()}},
    {"saved context used again",
     "fuse/read",
     {store(8, 10, -8, 1), load(8, 2, 10, -8), load(8, 0, 2, kNode), leave()}},
    {"bytes of a saved address",
     "fuse/read",
     {store(8, 10, -8, 1), load(4, 0, 10, -8), leave()},
     "pointer-leak",
     "bytes of a saved address are read",
     "the stack holds the context"},
    {"part of an address stored",
     "fuse/read",
     {store(4, 10, -8, 1), mov(0, 0), leave()},
     "pointer-leak",
     "part of an address is stored"},
    {"address stored across slots",
     "fuse/read",
     {store(8, 10, -12, 1), mov(0, 0), leave()},
     "pointer-leak",
     "part of an address is stored"},
    {"saved address partly overwritten",
     "fuse/read",
     {store(8, 10, -8, 1), store_imm(1, 10, -8, 0), load(8, 0, 10, -8), leave()},
     "stack-uninitialised",
     "not written"},
    {"stack at a bounded offset",
     "fuse/read",
     {store_imm(8, 10, -8, 0), store_imm(8, 10, -16, 0), load(1, 2, 1, kNode), alu_imm(kAnd, 2, 7), mov_reg(3, 10),
      alu_imm(kAdd, 3, -16), alu_reg(kAdd, 3, 2), load(8, 0, 3, 0), leave()}},
    {"stack at an unbounded offset",
     "fuse/read",
     {load(1, 2, 1, kNode), mov_reg(3, 10), alu_imm(kAdd, 3, -16), alu_reg(kAdd, 3, 2), store_imm(1, 3, 0, 0),
      mov(0, 0), leave()},
     "stack-bounds",
     "may lie outside of the stack",
     "in [-16, 239]"},
    {"unknown write near a saved address",
     "fuse/read",
     {store(8, 10, -16, 1), load(1, 2, 1, kNode), alu_imm(kAnd, 2, 7), mov_reg(3, 10), alu_imm(kAdd, 3, -16),
      alu_reg(kAdd, 3, 2), store_imm(1, 3, 0, 0), mov(0, 0), leave()},
     "pointer-leak",
     "may hit part of a saved address"},
    {"bound survives a save", "fuse/read",
     Code{load(1, 2, 1, kNode), alu_imm(kAnd, 2, 7), store(8, 10, -8, 2), load(8, 3, 10, -8)} + load_value(4, 3) +
         Code{alu_reg(kAdd, 4, 3), load(1, 0, 4, 0), leave()}},
    {"bound survives a save of 4 bytes", "fuse/read",
     Code{load(4, 2, 1, kNode), store(4, 10, -4, 2), load(4, 3, 10, -4), jump32_imm(kGt, 3, 63, 5)} +
         load_value(4, 3) + Code{load(4, 3, 10, -4), alu_reg(kAdd, 4, 3), load(1, 0, 4, 0), mov(0, 0), leave()}},

    // ---- addresses
    {"number as an address",
     "fuse/read",
     {mov(2, 4096), load(8, 0, 2, 0), leave()},
     "not-an-address",
     "a number is used as an address",
     "r2 is a number: 4096"},
    {"addresses multiplied",
     "fuse/read",
     {alu_imm(kMul, 1, 2), mov(0, 0), leave()},
     "pointer-arithmetic",
     "calculated with"},
    {"addresses added",
     "fuse/read",
     {alu_reg(kAdd, 1, 10), mov(0, 0), leave()},
     "pointer-arithmetic",
     "calculated with"},
    {"addresses subtracted",
     "fuse/read",
     {mov_reg(2, 10), alu_reg(kSub, 2, 10), mov(0, 0), leave()},
     "pointer-arithmetic",
     "calculated with"},
    {"half an address copied",
     "fuse/read",
     {alu32_reg(kMov, 0, 1), leave()},
     "pointer-arithmetic",
     "half of an address is copied"},
    {"bytes of an address swapped",
     "fuse/read",
     {raw(kClassAlu | kEnd, 1, 0, 0, 16), mov(0, 0), leave()},
     "pointer-arithmetic",
     "bytes of an address are swapped"},
    {"unbounded number added", "fuse/read",
     Code{load(8, 2, 1, kNode)} + load_value(3, 3) + Code{alu_reg(kAdd, 3, 2), mov(0, 0), leave()},
     "pointer-arithmetic", "a number without bound is added", "any number"},
    {"address compared with NULL", "fuse/read", {jump_imm(kNe, 1, 0, 1), mov(0, 1), mov(0, 0), leave()}},
    {"address compared with a number",
     "fuse/read",
     {mov(0, 0), jump_imm(kGt, 1, 5, 0), leave()},
     "pointer-comparison",
     "compared with something other than NULL"},
    {"addresses compared",
     "fuse/read",
     {mov(0, 0), jump_reg(kEq, 1, 10, 0), leave()},
     "pointer-comparison",
     "compared with something other than NULL"},

    // ---- maps
    {"lookup with a check", "fuse/read", lookup() + Code{jump_imm(kEq, 0, 0, 1), load(8, 0, 0, 8), leave()}},
    {"lookup without a check", "fuse/read", lookup() + Code{load(8, 0, 0, 0), leave()}, "null-check",
     "an address that may be NULL is used", "a comparison with NULL before"},
    {"lookup checked the wrong way", "fuse/read",
     lookup() + Code{jump_imm(kNe, 0, 0, 1), load(8, 0, 0, 0), mov(0, 0), leave()}, "not-an-address",
     "a number is used as an address", "r0 is a number: 0"},
    {"a copy is checked too", "fuse/read",
     lookup() + Code{mov_reg(6, 0), jump_imm(kEq, 0, 0, 1), load(8, 0, 6, 8), mov(0, 0), leave()}},
    {"arithmetic before the check", "fuse/read", lookup() + Code{alu_imm(kAdd, 0, 8), mov(0, 0), leave()},
     "null-check", "may be NULL is calculated with"},
    {"behind a map value", "fuse/read", lookup() + Code{jump_imm(kEq, 0, 0, 1), load(8, 0, 0, 9), leave()},
     "map-bounds", "outside of the value of map \"hash\"", "offset + 8 <= 16"},
    {"before a map value", "fuse/read", lookup() + Code{jump_imm(kEq, 0, 0, 1), load(1, 0, 0, -1), leave()},
     "map-bounds", "outside of the value"},
    {"value at a bounded index", "fuse/read",
     Code{load(4, 2, 1, kNode), alu_imm(kMod, 2, 64)} + load_value(3, 3) +
         Code{alu_reg(kAdd, 3, 2), load(1, 0, 3, 0), leave()}},
    {"value at an index one too large", "fuse/read",
     Code{load(4, 2, 1, kNode), alu_imm(kMod, 2, 65)} + load_value(3, 3) +
         Code{alu_reg(kAdd, 3, 2), load(1, 0, 3, 0), leave()},
     "map-bounds", "map \"t.bss\"", "in [0, 64]"},
    {"value at a signed index", "fuse/read",
     Code{load(8, 2, 1, kNode), jump_imm(kSgt, 2, 10, 4)} + load_value(3, 3) +
         Code{alu_reg(kAdd, 3, 2), load(1, 0, 3, 0), mov(0, 0), leave()},
     "pointer-arithmetic", "without bound"},
    {"value at an index checked both ways", "fuse/read",
     Code{load(8, 2, 1, kNode), jump_imm(kSgt, 2, 10, 5), jump_imm(kSlt, 2, 0, 4)} + load_value(3, 3) +
         Code{alu_reg(kAdd, 3, 2), load(1, 0, 3, 0), mov(0, 0), leave()}},
    {"a copy is bounded too", "fuse/read",
     Code{load(8, 2, 1, kNode), mov_reg(5, 2), jump_imm(kGt, 5, 63, 4)} + load_value(3, 3) +
         Code{alu_reg(kAdd, 3, 2), load(1, 0, 3, 0), mov(0, 0), leave()}},
    {"n - 1 bounded bounds n", "fuse/read",
     Code{load(4, 2, 1, kNode), mov_reg(5, 2), alu32_imm(kAdd, 5, -1), jump_imm(kGt, 5, 62, 4)} + load_value(3, 3) +
         Code{alu_reg(kAdd, 3, 2), load(1, 0, 3, 0), mov(0, 0), leave()}},
    {"a map used as an address", "fuse/read", load_map(2, 0) + Code{load(8, 0, 2, 0), leave()}, "not-an-address",
     "a map itself is used as an address"},
    {"a map calculated with", "fuse/read", load_map(2, 0) + Code{alu_imm(kAdd, 2, 8), mov(0, 0), leave()},
     "pointer-arithmetic", "a map itself is calculated with"},
    {"no such map", "fuse/read", load_map(2, 44) + pass(), "insn-malformed",
     "refers to something that does not exist"},
    {"address behind its data", "fuse/read", load_value(2, 3, 64) + pass(), "map-bounds", "outside of its data"},
    {"value address of a hash", "fuse/read", load_value(2, 0) + pass(), "map-bounds", "outside of its data"},
    {"write to .bss", "fuse/read", load_value(2, 3) + Code{store_imm(8, 2, 56, 1)} + pass()},
    {"write to .rodata", "fuse/read", load_value(2, 2) + Code{store_imm(8, 2, 0, 1)} + pass(), "write-read-only",
     "holds constants and is read-only everywhere"},
    {"write to .bss in the application", "syscall/read", load_value(2, 3) + Code{store_imm(8, 2, 0, 1)} + pass(),
     "write-in-application", "the application, which sees map \"t.bss\" read-only", "fuse/ or fuse_exit/"},
    {"read of .bss in the application", "syscall/read", load_value(2, 3) + Code{load(8, 0, 2, 0), leave()}},
    {"address stored in a map", "fuse/read", load_value(2, 3) + Code{store(8, 2, 0, 10)} + pass(), "pointer-leak",
     "an address is stored in a map"},
    {"constants are known", "fuse/read",
     load_value(2, 2) + Code{load(1, 3, 2, 9)} + load_value(4, 3) +
         Code{alu_imm(kLsh, 3, 3), alu_reg(kAdd, 4, 3), load(8, 0, 4, 48), leave()}},
    {"variables are not", "fuse/read",
     load_value(2, 3) + Code{load(1, 3, 2, 9)} + load_value(4, 3) +
         Code{alu_imm(kLsh, 3, 3), alu_reg(kAdd, 4, 3), load(8, 0, 4, 48), leave()},
     "map-bounds", "t.bss"},

    // ---- atomics
    {"atomic on .bss", "fuse/read", load_value(2, 3) + Code{mov(3, 1), atomic(8, 2, 8, 3, 1), mov_reg(0, 3), leave()}},
    {"atomic in the application", "syscall/read", load_value(2, 3) + Code{mov(3, 1), atomic(8, 2, 8, 3, 0)} + pass(),
     "write-in-application", "read-only"},
    {"misaligned atomic", "fuse/read", load_value(2, 3) + Code{mov(3, 1), atomic(8, 2, 4, 3, 0)} + pass(), "alignment",
     "must be aligned", "a multiple of 8"},
    {"atomic with an address", "fuse/read", load_value(2, 3) + Code{atomic(8, 2, 8, 10, 0)} + pass(), "pointer-leak",
     "takes part in an atomic operation"},
    {"atomic on a saved address",
     "fuse/read",
     {store(8, 10, -8, 1), mov(3, 1), atomic(8, 10, -8, 3, 1), mov(0, 0), leave()},
     "pointer-leak",
     "works on a saved address"},
    {"compare-and-exchange without r0", "fuse/read",
     load_value(2, 3) + Code{mov(3, 1), atomic(8, 2, 8, 3, 0xf1)} + pass(), "uninitialised", "register r0 is read"},

    // ---- host functions: where
    {"serving a stat", "syscall/stat", {call(SF_HOST_SERVE_ATTR), leave()}},
    {"serving data of a stat",
     "syscall/stat",
     {call(SF_HOST_SERVE_DATA), leave()},
     "call-not-allowed",
     "sf_serve_data() may not be called in syscall/stat",
     "syscall/read and fuse/read"},
    {"entry in fuse/lookup", "fuse/lookup", {call(SF_HOST_SERVE_ENTRY), leave()}},
    {"entry in the application",
     "syscall/stat",
     {call(SF_HOST_SERVE_ENTRY), leave()},
     "call-not-allowed",
     "sf_serve_entry() may not be called in syscall/stat",
     "fuse/lookup"},
    {"keeping a reply", "fuse_exit/lookup", {mov(2, 1), mov(3, 1), call(SF_HOST_KEEP), leave()}},
    {"keeping a request",
     "fuse/lookup",
     {mov(2, 1), mov(3, 1), call(SF_HOST_KEEP), leave()},
     "call-not-allowed",
     "sf_keep() may not be called in fuse/lookup",
     "fuse_exit/"},
    {"serving a reply",
     "fuse_exit/getattr",
     {call(SF_HOST_SERVE_ATTR), leave()},
     "call-not-allowed",
     "sf_serve_attr() may not be called in fuse_exit/getattr"},
    {"prefetch in the application",
     "syscall/read",
     {mov(2, 0), mov(3, 0), call(SF_HOST_PREFETCH), leave()},
     "call-not-allowed",
     "sf_prefetch() may not be called in syscall/read"},
    {"deleting in the daemon", "fuse/read",
     Code{store_imm(8, 10, -8, 0), mov_reg(2, 10), alu_imm(kAdd, 2, -8)} + load_map(1, 0) +
         Code{call(SF_HOST_MAP_DELETE), leave()}},
    {"deleting in the application", "syscall/read",
     Code{store_imm(8, 10, -8, 0), mov_reg(2, 10), alu_imm(kAdd, 2, -8)} + load_map(1, 0) +
         Code{call(SF_HOST_MAP_DELETE), leave()},
     "write-in-application", "which sees map \"hash\" read-only", "a map of a per-CPU kind"},
    {"lookup in the application", "syscall/read",
     Code{store_imm(8, 10, -8, 0), mov_reg(2, 10), alu_imm(kAdd, 2, -8)} + load_map(1, 0) +
         Code{call(SF_HOST_MAP_LOOKUP), mov(0, 0), leave()}},
    {"no such function",
     "fuse/read",
     {raw(kOpCall, 0, 0, 0, 9999), leave()},
     "insn-malformed",
     "names no function that exists"},

    // ---- host functions: arguments
    {"key is not memory", "fuse/read",
     Code{mov(2, 5)} + load_map(1, 0) + Code{call(SF_HOST_MAP_LOOKUP), mov(0, 0), leave()}, "not-an-address",
     "a number is used as an address", "r2 is a number: 5"},
    {"key is too short", "fuse/read",
     Code{store_imm(4, 10, -4, 0), mov_reg(2, 10), alu_imm(kAdd, 2, -4)} + load_map(1, 0) +
         Code{call(SF_HOST_MAP_LOOKUP), mov(0, 0), leave()},
     "stack-bounds", "outside of the stack"},
    {"key is unwritten", "fuse/read",
     Code{mov_reg(2, 10), alu_imm(kAdd, 2, -8)} + load_map(1, 0) + Code{call(SF_HOST_MAP_LOOKUP), mov(0, 0), leave()},
     "stack-uninitialised", "not written"},
    {"map is not a map",
     "fuse/read",
     {store_imm(8, 10, -8, 0), mov_reg(2, 10), alu_imm(kAdd, 2, -8), mov_reg(1, 10), call(SF_HOST_MAP_LOOKUP),
      mov(0, 0), leave()},
     "argument",
     "argument 1 of bpf_map_lookup_elem() is not a map"},
    {"key holds an address", "fuse/read",
     Code{store(8, 10, -8, 1), mov_reg(2, 10), alu_imm(kAdd, 2, -8)} + load_map(1, 0) +
         Code{call(SF_HOST_MAP_LOOKUP), mov(0, 0), leave()},
     "pointer-leak", "bytes of a saved address"},
    {"context moved before the call",
     "syscall/stat",
     {alu_imm(kAdd, 1, 8), call(SF_HOST_SERVE_ATTR), leave()},
     "argument",
     "argument 1 of sf_serve_attr() is not the context",
     "as the program received it"},
    {"stack passed as the context",
     "syscall/stat",
     {mov_reg(1, 10), call(SF_HOST_SERVE_ATTR), leave()},
     "argument",
     "is not the context"},
    {"missing argument",
     "fuse_exit/read",
     {mov(2, 0), call(SF_HOST_KEEP), leave()},
     "uninitialised",
     "register r3 is read"},
    {"address as a number",
     "fuse_exit/read",
     {mov_reg(2, 10), mov(3, 0), call(SF_HOST_KEEP), leave()},
     "argument",
     "argument 2 of sf_keep() is an address"},
    {"path into the stack",
     "fuse/read",
     {mov_reg(2, 10), alu_imm(kAdd, 2, -64), mov(3, 64), call(SF_HOST_PATH), load(8, 0, 10, -64), leave()}},
    {"path longer than its buffer",
     "fuse/read",
     {mov_reg(2, 10), alu_imm(kAdd, 2, -64), mov(3, 65), call(SF_HOST_PATH), mov(0, 0), leave()},
     "stack-bounds",
     "outside of the stack",
     "65 bytes"},
    {"buffer of unknown size",
     "fuse/read",
     {load(8, 3, 1, kNode), mov_reg(2, 10), alu_imm(kAdd, 2, -64), call(SF_HOST_PATH), mov(0, 0), leave()},
     "argument",
     "the size of a buffer may be 0"},
    {"buffer without bound",
     "fuse/read",
     {load(8, 3, 1, kNode), alu_imm(kOr, 3, 1), mov_reg(2, 10), alu_imm(kAdd, 2, -64), call(SF_HOST_PATH), mov(0, 0),
      leave()},
     "argument",
     "has no useful bound"},
    {"buffer of bounded size",
     "fuse/read",
     {load(8, 3, 1, kNode), alu_imm(kAnd, 3, 31), alu_imm(kAdd, 3, 1), mov_reg(2, 10), alu_imm(kAdd, 2, -32),
      call(SF_HOST_PATH), mov(0, 0), leave()}},
    {"only the sure part is written",
     "fuse/read",
     {load(8, 3, 1, kNode), alu_imm(kAnd, 3, 31), alu_imm(kAdd, 3, 1), mov_reg(2, 10), alu_imm(kAdd, 2, -32),
      call(SF_HOST_PATH), load(1, 0, 10, -31), leave()},
     "stack-uninitialised",
     "not written"},
    {"path over a saved address",
     "fuse/read",
     {store(8, 10, -8, 1), mov_reg(2, 10), alu_imm(kAdd, 2, -8), mov(3, 8), call(SF_HOST_PATH), mov(0, 0), leave()},
     "pointer-leak",
     "the buffer overlaps a saved address"},
    {"path into constants", "fuse/read", load_value(2, 2) + Code{mov(3, 8), call(SF_HOST_PATH), mov(0, 0), leave()},
     "write-read-only", "holds constants"},
    {"string in constants", "fuse/read",
     Code{store_imm(8, 10, -8, 0), mov_reg(1, 10), alu_imm(kAdd, 1, -8), mov(2, 8)} + load_value(3, 2) +
         Code{call(SF_HOST_STRNCMP), leave()}},
    {"string without its end", "fuse/read",
     Code{store_imm(8, 10, -8, 0), mov_reg(1, 10), alu_imm(kAdd, 1, -8), mov(2, 8)} + load_value(3, 2, 12) +
         Code{call(SF_HOST_STRNCMP), leave()},
     "argument", "the constant string is not terminated"},
    {"string in variables", "fuse/read",
     Code{store_imm(8, 10, -8, 0), mov_reg(1, 10), alu_imm(kAdd, 1, -8), mov(2, 8)} + load_value(3, 3) +
         Code{call(SF_HOST_STRNCMP), leave()},
     "argument", "a constant string is expected"},

    // ---- loops
    {"counted loop", "fuse/read", {mov(6, 0), alu_imm(kAdd, 6, 1), jump_imm(kLt, 6, 1000, -2), mov(0, 0), leave()}},
    {"endless loop", "fuse/read", {mov(0, 0), go(-1), leave()}, "unreachable", "nothing reaches"},
    {"loop that changes nothing",
     "fuse/read",
     {load(8, 6, 1, kNode), mov(0, 0), jump_imm(kEq, 6, 5, -1), leave()},
     "endless-loop",
     "cannot be shown to end",
     "a counter that the loop changes"},
    {"loop on what a helper says",
     "fuse/read",
     {call(SF_HOST_KTIME), jump_imm(kNe, 0, 5, -2), mov(0, 0), leave()},
     "endless-loop",
     "cannot be shown to end"},
    {"loop bounded by a checked number",
     "fuse/read",
     {load(1, 7, 1, kNode), mov(6, 0), jump_reg(kGe, 6, 7, 2), alu_imm(kAdd, 6, 1), go(-3), mov(0, 0), leave()}},
    {"loop bounded by nothing",
     "fuse/read",
     {load(8, 7, 1, kNode), mov(6, 0), jump_reg(kGe, 6, 7, 2), alu_imm(kAdd, 6, 1), go(-3), mov(0, 0), leave()},
     "endless-loop",
     "nothing bounds the number of its rounds",
     "a comparison with a bound"},
    {"loop of many rounds",
     "fuse/read",
     {mov(6, 0), alu_imm(kAdd, 6, 1), jump_imm(kLt, 6, 10000000, -2), mov(0, 0), leave()}},
    {"loop of too many rounds",
     "fuse/read",
     {mov(6, 0), alu_imm(kAdd, 6, 1), jump_imm(kLt, 6, 2000000000, -2), mov(0, 0), leave()},
     "too-complex",
     "more paths than can be walked",
     "where 268435456 are the most"},

    // ---- sub-programs
    {"call into a function",
     "fuse/read",
     {call_local(2), leave(), mov(0, 0), leave()},
     "call-out-of-range",
     "not a function",
     "",
     {2}},
    {"sub-program",
     "fuse/read",
     {load(8, 1, 1, kNode), call_local(1), leave(), mov_reg(0, 1), leave()},
     nullptr,
     "",
     "",
     {3}},
    {"sub-program changes the caller's stack",
     "fuse/read",
     {store_imm(8, 10, -8, 0), mov_reg(1, 10), alu_imm(kAdd, 1, -8), call_local(2), load(8, 0, 10, -8), leave(),
      store_imm(8, 1, 0, 7), mov(0, 0), leave()},
     nullptr,
     "",
     "",
     {6}},
    {"sub-program writes below its caller's stack",
     "fuse/read",
     {mov_reg(1, 10), call_local(1), leave(), store_imm(8, 1, 0, 7), mov(0, 0), leave()},
     "stack-bounds",
     "outside of the stack",
     "",
     {3}},
    {"sub-program returns its stack",
     "fuse/read",
     {call_local(2), mov(0, 0), leave(), mov_reg(0, 10), leave()},
     "return-value",
     "an address on its own stack",
     "",
     {3}},
    {"sub-program leaves its stack behind",
     "fuse/read",
     {mov_reg(1, 10), alu_imm(kAdd, 1, -8), call_local(2), mov(0, 0), leave(), store(8, 1, 0, 10), mov(0, 0), leave()},
     "pointer-leak",
     "where it would outlive it",
     "",
     {5}},
    {"sub-program without a result", "fuse/read", {call_local(2), mov(0, 0), leave(), leave()}, nullptr, "", "", {3}},
    {"missing result is used",
     "fuse/read",
     {call_local(1), leave(), leave()},
     "return-value",
     "without a verdict",
     "",
     {2}},
    {"sub-program reads r6",
     "fuse/read",
     {mov(6, 1), call_local(1), leave(), mov_reg(0, 6), leave()},
     "uninitialised",
     "register r6 is read",
     "",
     {3}},
    {"recursion",
     "fuse/read",
     {call_local(1), leave(), call_local(-1), leave()},
     "call-depth",
     "call themselves",
     "no recursion",
     {2}},
    {"two frames of 256",
     "fuse/read",
     {store_imm(8, 10, -256, 0), call_local(1), leave(), store_imm(8, 10, -256, 0), mov(0, 0), leave()},
     nullptr,
     "",
     "",
     {3}},
    {"two frames of 256 and 264",
     "fuse/read",
     {store_imm(8, 10, -256, 0), call_local(1), leave(), store_imm(8, 10, -264, 0), mov(0, 0), leave()},
     "stack-total",
     "together use too much stack",
     "520 bytes",
     {3}},
};

TEST(Verifier, Rules) {
  int accepted = 0, refused = 0;
  for (const Case &c : kCases) {
    SCOPED_TRACE(c.name);
    auto policy = verified_policy({make_program(c.code, c.section, c.functions)});
    if (!c.refusal) {
      accepted++;
      EXPECT_TRUE(policy) << policy.error().str();
      continue;
    }
    refused++;
    ASSERT_FALSE(policy) << "accepted";
    const Refusal &r = policy.error();
    EXPECT_EQ(r.code, std::string("verify-") + c.refusal) << r.str();
    EXPECT_EQ(r.text.find("t.bpf.o: " + std::string(c.section) + " (test): "), 0u) << r.text;
    EXPECT_NE(r.text.find(c.text), std::string::npos) << r.text;
    EXPECT_NE(r.detail.find(c.detail), std::string::npos) << r.detail;
    EXPECT_EQ(r.text.find('\n'), std::string::npos);
  }
  EXPECT_GE(accepted, 40);
  EXPECT_GE(refused, 60);
}

// Every accepted rule case also runs, in both ways and to the same end.
TEST(Verifier, AcceptedProgramsRun) {
  std::vector<LinkedProgram> programs;
  for (const Case &c : kCases) {
    if (!c.refusal) programs.push_back(make_program(c.code, c.section, c.functions));
  }
  auto policy = verified_policy(programs);
  ASSERT_TRUE(policy) << policy.error().str();
  auto image = Image::publish(*policy, Lowering::Required);
  ASSERT_TRUE(image) << image.error().str();
  ASSERT_EQ(sf_image_check(image->get(), image->bytes()), 0);
  for (uint32_t i = 0; i < policy->programs.size(); i++) {
    for (uint64_t node : {0ull, 1ull, 7ull, 63ull, 200ull, 0xffffffffull, ~0ull}) {
      union { sf_syscall_ctx syscall; sf_fuse_exit_ctx exit; } ctx{};
      if (policy->programs[i].info.slot < SF_SLOT_FUSE) ctx.syscall.node = node;
      else ctx.exit.req.node = node;
      Host one, two;
      EXPECT_EQ(image->interpret(i, &ctx, one.env()), image->run_code(i, &ctx, two.env())) << "program " << i;
      EXPECT_TRUE(one.effects() == two.effects()) << "program " << i;
    }
  }
}

// A function buffer that the host leaves unwritten shows zeroes, never what lay there.
TEST(Verifier, OutputBuffersAreZeroed) {
  Code code{store_imm(8, 10, -64, -1), store_imm(8, 10, -8, -1), mov_reg(2, 10),     alu_imm(kAdd, 2, -64), mov(3, 64),
            call(SF_HOST_PATH),        load(8, 0, 10, -64),      load(8, 1, 10, -8), alu_reg(kOr, 0, 1),    leave()};
  auto policy = verified_policy({make_program(code, "fuse/read")});
  ASSERT_TRUE(policy) << policy.error().str();
  auto image = Image::publish(*policy, Lowering::Required);
  ASSERT_TRUE(image);
  sf_fuse_ctx ctx{};
  Host host;
  host.path = "?";
  EXPECT_EQ(image->interpret(0, &ctx, host.env()), 0u);
  EXPECT_EQ(image->run_code(0, &ctx, host.env()), 0u);
}

// The limits hold: programs made to explode are refused in bounded time and memory.
TEST(Verifier, ExplosionsEnd) {
  // 40 branches on unknown bits, each adding a different number: 2^40 values at the end.
  Code code{load(8, 6, 1, kNode), mov(7, 0)};
  for (int i = 0; i < 40; i++) {
    code = code + Code{mov_reg(2, 6), alu_imm(kRsh, 2, i), alu_imm(kAnd, 2, 1), jump_imm(kEq, 2, 0, 2)} +
           load64(3, 1ull << i) + Code{alu_reg(kAdd, 7, 3)};
    code[code.size() - 4].off = 3;
  }
  code = code + Code{mov_reg(0, 7), leave()};
  auto policy = verified_policy({make_program(code, "fuse/read")});
  EXPECT_TRUE(policy || policy.error().code == "verify-too-complex");
  // A path left open in every round.
  Code open{mov(6, 0),
            call(SF_HOST_KTIME),
            jump_imm(kEq, 0, 1, 2),
            alu_imm(kAdd, 6, 1),
            jump_imm(kLt, 6, 2000000000, -4),
            mov(0, 0),
            leave()};
  policy = verified_policy({make_program(open, "fuse/read")});
  ASSERT_FALSE(policy);
  EXPECT_EQ(policy.error().code, "verify-too-complex");
}

// An instruction that no path reaches, for which no rule has been checked, cannot be executed.
TEST(Verifier, UnwalkedCodeBecomesExit) {
  Code code{mov(2, 1), mov(0, 5), jump_imm(kEq, 2, 1, 1), load(8, 0, 9, 0), leave()};
  auto policy = verified_policy({make_program(code, "fuse/read")});
  ASSERT_TRUE(policy) << policy.error().str();
  RawInsn dead;
  memcpy(&dead, &policy->programs[0].insns[3], 8);
  EXPECT_EQ(dead.code, kOpExit);
}

// A jump that the verifier knows the answer to goes that way whatever it compares at run time.
TEST(Verifier, JumpsWithOneWayAlwaysGoIt) {
  auto policy = verified_policy({make_program({mov(0, 7), jump_imm(kEq, 10, 0, 2), jump_imm(kNe, 1, 0, 1), mov(0, 8),
                                          leave()}, "fuse/read")});
  ASSERT_TRUE(policy) << policy.error().str();
  for (auto [pc, off] : {std::pair{1, 0}, std::pair{2, 1}}) {
    RawInsn in;
    memcpy(&in, &policy->programs[0].insns[static_cast<size_t>(pc)], 8);
    EXPECT_EQ(in.code, kClassJmp | kJumpAlways);
    EXPECT_EQ(in.off, off);
  }
  auto image = Image::publish(*policy, Lowering::Required);
  ASSERT_TRUE(image);
  sf_fuse_ctx ctx{};
  Host host;
  EXPECT_EQ(image->interpret(0, &ctx, host.env()), 7u);
  EXPECT_EQ(image->run_code(0, &ctx, host.env()), 7u);
}

// Functions that go through memory cost a run fuel by the byte: no program of few instructions runs for minutes.
TEST(Verifier, BytesOfHostFunctionsCostFuel) {
  auto policy = verified_policy({make_program(
      Code{store_imm(8, 10, -8, 0), mov(6, 0)} + load_value(1, kRodata) + Code{mov(2, 8)} + load_value(3, kRodata) +
          Code{call(SF_HOST_STRNCMP), alu_imm(kAdd, 6, 1), jump_imm(kLt, 6, 100, -8), mov(0, 0), leave()},
      "fuse/read")});
  ASSERT_TRUE(policy) << policy.error().str();
  auto image = Image::publish(*policy, Lowering::Required);
  ASSERT_TRUE(image);
  sf_fuse_ctx ctx{};
  uint64_t left[2];
  for (int compiled = 0; compiled < 2; compiled++) {
    Host host;
    if (compiled) image->run_code(0, &ctx, host.env());
    else image->interpret(0, &ctx, host.env());
    left[compiled] = host.env()->fuel;
  }
  EXPECT_EQ(left[0], left[1]);
  EXPECT_LE(left[0], (1u << 20) - 100 - 99 * 8);
}

}  // namespace
}  // namespace shortfuse::vm
