/* Policies in the daemon and in the command: load, verify, lower, publish.
 *
 * Thread-safe: no global state; a PolicyImage is immutable once made. Errors are sentences for people. */
#pragma once
#include <cstdint>
#include <expected>
#include <string>
#include <vector>

#include "shortfuse/vm/image.h"

namespace shortfuse::vm {

/// What a refusal means for who wrote the policy.
enum class RefusalCategory : uint8_t {
  None,          ///< not decided yet
  Unsafe,        ///< it does what no program may
  NotProved,     ///< it may be right, but that could not be shown
  NotSupported,  ///< not here, or the object is none of ours
};
const char *category_name(RefusalCategory category);  ///< "unsafe", "could not prove", "not supported here"

/// A place on the way to where a program was refused.
struct RefusalStep {
  std::string file, source;  ///< "" where the object has no line information
  uint32_t line = 0, insn = 0;
  std::string what;          ///< "r1 > 63 is false", "sets r2"
};

/// Why a policy was refused. `text` is one line; `detail` has the rest for people: source, facts, path, suggestion.
/// The fields behind them say the same one by one; what does not apply is empty.
struct Refusal {
  std::string code;    ///< stable, e.g. "elf-malformed", "verify-stack-bounds", "map-type-unsupported": refusals.md
  std::string text;
  std::string detail;
  RefusalCategory category = RefusalCategory::None;
  std::string reason;      ///< a plain sentence: `text` without where
  std::string file, source;
  uint32_t line = 0;
  int64_t insn = -1;
  std::string insn_text;
  std::string needed, known;
  std::vector<RefusalStep> path;  ///< in the order in which it happens
  std::string suggestion;
  std::string str() const { return detail.empty() ? text : text + "\n" + detail; }
};

/// What one verified program is, for `policy check` and `status`.
struct ProgramInfo {
  std::string section, name;
  unsigned slot;
  uint32_t insns;
  uint32_t states_explored;
  bool attached = true;  ///< false of SEC("?..."): reached by tail calls only
  /// The most rounds that its loops and callbacks may take, nested ones multiplied; 0: few. A run that takes more
  /// than its fuel (2^26 instructions) is cut short with SF_PASS.
  uint64_t rounds_max = 0;
};

/// A loaded and verified chain, not yet lowered.
class Policy {
 public:
  struct Map {
    sf_image_map def{};
    /// Of .rodata, .data, .bss: value_size bytes. Of a PROG_ARRAY or ARRAY_OF_MAPS with static contents: u32 per
    /// element, the program's or map's index in the image + 1, 0 for none. Else empty.
    std::vector<unsigned char> initial;
    bool frozen = false;                 ///< .rodata
    std::string key_type, value_type;    ///< for people: see type_description.h; "" where only sizes are declared
    std::vector<sf_image_map> inner;     ///< of an ARRAY_OF_MAPS: what all its maps look like, once
  };
  struct Function { std::string name; uint32_t start, end; };
  struct Program {
    ProgramInfo info;
    uint32_t object;
    uint32_t stack_bytes = 0;            ///< of the deepest chain of calls
    std::vector<uint64_t> insns;         ///< struct bpf_insn, linked: map refs src=1/5 imm=map index, values src=2/6,
                                         ///< helper and kfunc calls as src=0 imm=enum sf_host_id, sub-programs src=1
                                         ///< (off = bytes of stack that the caller uses)
    std::vector<uint64_t> linked;        ///< the same before it was verified
    std::vector<Function> functions;     ///< the first is the program itself
    int32_t code_block = -1;             ///< of code_blocks: machine code that came with it; below 0: none
    uint32_t code_entry = 0;
  };
  std::vector<std::string> paths;
  std::vector<Map> maps;
  std::vector<Program> programs;
  /// Machine code looks into maps by itself. False: every call goes through the host's table, for who wants to see
  /// them.
  bool calls_inlined = true;
  /// Machine code of files that were compiled ahead of time, and why that of some is not used: for the daemon's log.
  std::vector<std::vector<unsigned char>> code_blocks;
  std::vector<std::string> notes;
};

/// Reads and verifies the files of a chain in order: objects, or policies compiled ahead of time (.sfi), which must
/// belong to root or to the caller and be writable by nobody else. Never crashes on any bytes.
std::expected<Policy, Refusal> load_policy(const std::vector<std::string> &paths);
/// The same for one object in memory (`name` for messages).
std::expected<Policy, Refusal> load_policy_bytes(const void *elf, size_t bytes, const std::string &name);

/// A variable of an object's data, to be something else than it was compiled as.
struct Setting { std::string name, value; };  ///< a number, the name of an errno, or text for an array of characters

/// The same for `shortfuse trace`: sections are syscall/NAME and syscall_exit/NAME, see trace.h.
std::expected<Policy, Refusal> load_trace(const std::vector<std::string> &paths, const std::vector<Setting> &settings);

/// System calls that programs of a trace can be attached to.
struct TracedCall {
  const char *name;
  uint16_t number;
  bool has_exit;
};
const std::vector<TracedCall> &traced_calls();
/// "openat", by its number; "" for calls that cannot be traced.
std::string traced_call_name(uint64_t number);
/// Where programs of a section of load_trace() are attached.
struct TracedPlace {
  bool at_exit;
  int number;  ///< below 0: every call
};
std::expected<TracedPlace, Refusal> traced_place(const std::string &section);

/// One instruction of a program as text, in the notation of the kernel's verifier.
struct DisassembledInsn {
  uint32_t pc;                 ///< what jumps count; LOAD_IMM64 takes two
  std::string text;
};
/// A verified program taken apart. Instructions that no path reaches have become exits.
std::vector<DisassembledInsn> disassemble(const Policy::Program &program);

/// "PERCPU_HASH", by the kernel's number.
const char *map_kind_name(uint32_t type);

/// A field of what programs of a slot get as their context; nested ones as "req.node".
struct ContextField {
  std::string name;
  uint32_t offset, bytes;
  bool is_signed;
};
std::vector<ContextField> context_fields(unsigned slot);

enum class Lowering { Auto, InterpretOnly, Required };

/// Makes the image in a memfd: sealed against writing, shrinking and growing, ready to be mapped PROT_READ|PROT_EXEC.
/// Auto: machine code where the compiler can be had (libshortfuse-jit.so, opened on demand), else bytecode only, and
/// `why_interpreted` says why. The caller owns the descriptor.
struct PublishedImage {
  int fd;
  size_t bytes;
  std::string why_interpreted;
};
std::expected<PublishedImage, Refusal> publish_image(const Policy &policy, Lowering lowering);

/// The contents of an .sfi file: the chain and its machine code.
std::expected<std::vector<unsigned char>, Refusal> precompile(const Policy &policy);

/// What the compiler makes of a policy, as text: LLVM's intermediate language before and after it is optimised, and
/// assembly. Functions are named after the programs in the order of the policy, p0, p1, ...; programs of equal bytes
/// share one.
enum class CompilerStage { Lowered, Optimised, Assembly };
std::expected<std::string, Refusal> compiler_text(const Policy &policy, CompilerStage stage);

}  // namespace shortfuse::vm
