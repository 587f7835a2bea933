// libshortfuse-jit.so: the only code here that links LLVM: as archives where they are installed, of which it takes what
// it needs and hides it from the process. Loading it costs 4 ms then, and 36 MB of file; with libLLVM.so 10 ms and 130.
//
// A whole policy is one module, optimised by a short list of passes and emitted as an object file in memory, of which
// the code is the .text section. Position-independent code of the small model without constants, tables or calls to
// outside needs no relocation; should one appear all the same, the policy is interpreted instead.
#include "lower/jit.h"

#include <elf.h>
#include <llvm-c/Analysis.h>
#include <llvm-c/BitReader.h>
#include <llvm-c/Core.h>
#include <llvm-c/ErrorHandling.h>
#include <llvm-c/Linker.h>
#include <llvm-c/Target.h>
#include <llvm-c/TargetMachine.h>
#include <llvm-c/Transforms/PassBuilder.h>
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <memory>
#include <mutex>
#include <string>
#include <string_view>

#include "lower/lower.h"
#include "lower/strips.h"

extern "C" const char sf_inline_bitcode[], sf_inline_bitcode_end[];

namespace shortfuse::vm {

void set_attributes(LLVMValueRef function) {
  LLVMContextRef context = LLVMGetModuleContext(LLVMGetGlobalParent(function));
  auto text = [&](const char *key, const char *value) {
    LLVMAddAttributeAtIndex(function, LLVMAttributeFunctionIndex,
        LLVMCreateStringAttribute(context, key, static_cast<unsigned>(__builtin_strlen(key)), value,
                                  static_cast<unsigned>(__builtin_strlen(value))));
  };
  auto flag = [&](const char *name) {
    unsigned kind = LLVMGetEnumAttributeKindForName(name, __builtin_strlen(name));
    LLVMAddAttributeAtIndex(function, LLVMAttributeFunctionIndex, LLVMCreateEnumAttribute(context, kind, 0));
  };
  text("target-cpu", "x86-64");
  text("target-features", "-x87,-mmx,-sse,-sse2,-sse3,-ssse3,-sse4.1,-sse4.2,-avx,-avx2,+soft-float");
  text("no-jump-tables", "true");
  text("no-builtins", "");
  flag("noimplicitfloat");
  flag("nounwind");
}

}  // namespace shortfuse::vm

namespace {

constexpr const char *kTriple = "x86_64-unknown-linux-gnu";
// What optimisation costs is measured against what it gains in vm_bench: most policies are straight lines of a few
// instructions, so loops and functions have their passes only where there are any.
std::string passes_for(const shortfuse::vm::Lowered &has) {
  const std::string combine = "instcombine<no-verify-fixpoint>,";
  std::string passes = "function(sroa,early-cse," + combine + "simplifycfg),always-inline,";
  if (has.functions) passes += "cgscc(inline),";
  passes += "function(";
  if (has.functions) passes += combine;  // what was passed by its address may become a value
  passes += "sroa,early-cse<memssa>,";
  if (has.loops) passes += "loop-mssa(loop-rotate,licm),";
  passes += combine;
  const bool few = has.loops <= shortfuse::vm::kOptimisedLoopsMax;
  if (has.loops && few) passes += "loop(indvars,loop-deletion),";
  // Those that ask for it, and no others.
  constexpr const char *unroll = "loop-unroll<O2;full-unroll-max=0;no-partial;no-peeling;no-runtime;no-upperbound>,";
  if (has.strips && few) passes += unroll + combine;
  // The last: a program that ends with a call of the host, and pays nowhere, jumps there. That is 1 ns of 8 that a run
  // of SEC("syscall/stat") takes besides what it serves.
  return passes + "simplifycfg,dse,adce,tailcallelim)";
}

// LLVM ends the process on errors that it thinks it cannot return. This thread jumps out instead: what LLVM held is
// lost, the process goes on.
thread_local jmp_buf *on_fatal = nullptr;
thread_local char fatal_text[256];

void fatal(const char *reason) {
  if (!on_fatal) return;
  snprintf(fatal_text, sizeof fatal_text, "%s", reason);
  longjmp(*on_fatal, 1);
}

void initialise_once() {
  static std::once_flag once;
  std::call_once(once, [] {
    LLVMInitializeX86TargetInfo();
    LLVMInitializeX86Target();
    LLVMInitializeX86TargetMC();
    LLVMInitializeX86AsmPrinter();
    LLVMInstallFatalErrorHandler(fatal);
  });
}

template <auto dispose> struct Dispose {
  template <typename T> void operator()(T *p) const { dispose(p); }
};
using Context = std::unique_ptr<LLVMOpaqueContext, Dispose<LLVMContextDispose>>;
using Module = std::unique_ptr<LLVMOpaqueModule, Dispose<LLVMDisposeModule>>;
using Machine = std::unique_ptr<LLVMOpaqueTargetMachine, Dispose<LLVMDisposeTargetMachine>>;
using Buffer = std::unique_ptr<LLVMOpaqueMemoryBuffer, Dispose<LLVMDisposeMemoryBuffer>>;
using PassOptions = std::unique_ptr<LLVMOpaquePassBuilderOptions, Dispose<LLVMDisposePassBuilderOptions>>;

std::string taken(char *message) {
  std::string s = message ? message : "";
  LLVMDisposeMessage(message);
  return s;
}

Machine make_machine(std::string *error) {
  LLVMTargetRef target = nullptr;
  char *message = nullptr;
  if (LLVMGetTargetFromTriple(kTriple, &target, &message)) return *error = taken(message), nullptr;
  return Machine(LLVMCreateTargetMachine(target, kTriple, "x86-64", "", LLVMCodeGenLevelDefault, LLVMRelocPIC,
                                         LLVMCodeModelSmall));
}

std::string entry_name(size_t i) {
  std::string name = "p";
  return name += std::to_string(i);
}

// What one call of the compiler works on.
struct Work {
  Context context{LLVMContextCreate()};
  Module module;
  Machine machine;
  shortfuse::vm::Lowered lowered;

  bool lower(const sf_jit_policy &policy, std::string *error) {
    module.reset(LLVMModuleCreateWithNameInContext("policy", context.get()));
    machine = make_machine(error);
    if (!machine) return false;
    LLVMSetTarget(module.get(), kTriple);
    LLVMTargetDataRef layout = LLVMCreateTargetDataLayout(machine.get());
    LLVMSetModuleDataLayout(module.get(), layout);
    LLVMDisposeTargetData(layout);
    for (size_t i = 0; i < policy.count; i++) {
      const char *what = nullptr;
      const sf_jit_program &p = policy.programs[i];
      if (!shortfuse::vm::lower_program(module.get(), entry_name(i).c_str(), p, policy, &lowered, &what))
        return *error = what, false;
    }
    if (lowered.loops > shortfuse::vm::kCompiledLoopsMax)
      return *error = "a program has more than " + std::to_string(shortfuse::vm::kCompiledLoopsMax) + " loops", false;
    if (!link_inline(error)) return false;
    char *message = nullptr;
    const bool broken = LLVMVerifyModule(module.get(), LLVMReturnStatusAction, &message);
    const std::string text = taken(message);
    if (broken) *error = text;
    return !broken;
  }

  // Gives the functions that are inlined their bodies.
  bool link_inline(std::string *error) {
    bool any = false;
    for (LLVMValueRef f = LLVMGetFirstFunction(module.get()); f; f = LLVMGetNextFunction(f)) any |= is_inline(f);
    if (!any) return true;
    const auto bytes = static_cast<size_t>(sf_inline_bitcode_end - sf_inline_bitcode);
    Buffer buffer(LLVMCreateMemoryBufferWithMemoryRange(sf_inline_bitcode, bytes, "inline", false));
    LLVMModuleRef bodies = nullptr;
    // Read as far as it is needed: bodies that nobody asks for stay where they are.
    if (LLVMGetBitcodeModuleInContext2(context.get(), buffer.get(), &bodies))
      return *error = "the functions to be inlined cannot be read", false;
    (void)buffer.release();  // the module's now
    for (LLVMValueRef f = LLVMGetFirstFunction(bodies); f; f = LLVMGetNextFunction(f)) {
      if (!LLVMIsDeclaration(f)) LLVMSetLinkage(f, LLVMLinkOnceODRLinkage);
    }
    if (LLVMLinkModules2(module.get(), bodies))
      return *error = "the functions to be inlined cannot be linked", false;
    for (LLVMValueRef f = LLVMGetFirstFunction(module.get()), next = nullptr; f; f = next) {
      next = LLVMGetNextFunction(f);
      if (!is_inline(f)) continue;
      if (!LLVMGetFirstUse(f)) {
        LLVMDeleteFunction(f);
        continue;
      }
      LLVMSetLinkage(f, LLVMInternalLinkage);
      shortfuse::vm::set_attributes(f);
      freeze_loads(f);
      if (always_inline(f)) add_attribute(f, "alwaysinline");
      else if (LLVMGetNextUse(LLVMGetFirstUse(f))) add_attribute(f, "noinline");
    }
    return true;
  }
  // As loads of programs (lower.cc): a key may lie in a value that others write, and an index that was compared must be
  // the one that is used. What lookups read of maps they read atomically.
  void freeze_loads(LLVMValueRef f) {
    LLVMBuilderRef builder = LLVMCreateBuilderInContext(context.get());
    for (LLVMBasicBlockRef b = LLVMGetFirstBasicBlock(f); b; b = LLVMGetNextBasicBlock(b)) {
      for (LLVMValueRef i = LLVMGetFirstInstruction(b); i; i = LLVMGetNextInstruction(i)) {
        if (!LLVMIsALoadInst(i) || LLVMGetOrdering(i) != LLVMAtomicOrderingNotAtomic || LLVMGetVolatile(i)) continue;
        LLVMPositionBuilderBefore(builder, LLVMGetNextInstruction(i));
        LLVMValueRef frozen = LLVMBuildFreeze(builder, i, "");
        LLVMReplaceAllUsesWith(i, frozen);
        LLVMSetOperand(frozen, 0, i);
        i = frozen;
      }
    }
    LLVMDisposeBuilder(builder);
  }
  void add_attribute(LLVMValueRef f, std::string_view name) {
    const unsigned kind = LLVMGetEnumAttributeKindForName(name.data(), name.size());
    LLVMAddAttributeAtIndex(f, LLVMAttributeFunctionIndex, LLVMCreateEnumAttribute(context.get(), kind, 0));
  }

  static std::string_view name_of(LLVMValueRef f) {
    size_t length = 0;
    const char *name = LLVMGetValueName2(f, &length);
    return {name, length};
  }
  static bool is_inline(LLVMValueRef f) { return name_of(f).starts_with(shortfuse::vm::kInlinePrefix); }
  // Lookups. The others are loops, of which a copy per call gains nothing and takes a millisecond to compile.
  static bool always_inline(LLVMValueRef f) {
    return !name_of(f).ends_with("strncmp") && !name_of(f).ends_with("clear");
  }

  bool optimise(std::string *error) {
    PassOptions options(LLVMCreatePassBuilderOptions());
    LLVMErrorRef failed = LLVMRunPasses(module.get(), passes_for(lowered).c_str(), machine.get(), options.get());
    if (!failed) return true;
    char *text = LLVMGetErrorMessage(failed);
    *error = text;
    LLVMDisposeErrorMessage(text);
    return false;
  }

  Buffer emit(LLVMCodeGenFileType type, std::string *error) {
    LLVMMemoryBufferRef out = nullptr;
    char *message = nullptr;
    if (LLVMTargetMachineEmitToMemoryBuffer(machine.get(), module.get(), type, &message, &out))
      return *error = taken(message), nullptr;
    return Buffer(out);
  }
};

// ---- the object file that LLVM made

struct Object {
  const char *base;
  const Elf64_Shdr *sections;
  size_t count;

  explicit Object(LLVMMemoryBufferRef buffer) : base(LLVMGetBufferStart(buffer)) {
    const auto *header = reinterpret_cast<const Elf64_Ehdr *>(base);
    sections = reinterpret_cast<const Elf64_Shdr *>(base + header->e_shoff);
    count = header->e_shnum;
  }
  const char *name(const Elf64_Shdr &s) const {
    const auto *header = reinterpret_cast<const Elf64_Ehdr *>(base);
    return base + sections[header->e_shstrndx].sh_offset + s.sh_name;
  }
};

// The code and its entries, or why it cannot be used as it is.
const char *extract(const Object &object, sf_jit_program *programs, size_t count, sf_jit_result *result) {
  size_t text = 0;
  for (size_t i = 1; i < object.count; i++) {
    const Elf64_Shdr &s = object.sections[i];
    if (s.sh_type == SHT_REL || s.sh_type == SHT_RELA) return "the code needs relocations";
    if (!(s.sh_flags & SHF_ALLOC) || s.sh_size == 0) continue;
    if (strcmp(object.name(s), ".text") != 0) return "the code needs data of its own";
    text = i;
  }
  if (text == 0) return "there is no code";
  const Elf64_Shdr &code = object.sections[text];
  for (size_t i = 0; i < count; i++) programs[i].entry = UINT32_MAX;
  for (size_t i = 1; i < object.count; i++) {
    const Elf64_Shdr &table = object.sections[i];
    if (table.sh_type != SHT_SYMTAB) continue;
    const auto *symbol = reinterpret_cast<const Elf64_Sym *>(object.base + table.sh_offset);
    const char *names = object.base + object.sections[table.sh_link].sh_offset;
    for (size_t n = table.sh_size / sizeof *symbol; n > 0; n--, symbol++) {
      const char *name = names + symbol->st_name;
      char *end = nullptr;
      if (symbol->st_shndx != text || name[0] != 'p') continue;
      unsigned long index = strtoul(name + 1, &end, 10);
      if (end != name + 1 && *end == 0 && index < count)
        programs[index].entry = static_cast<uint32_t>(symbol->st_value);
    }
  }
  for (size_t i = 0; i < count; i++) {
    if (programs[i].entry == UINT32_MAX) return "an entry is missing";
  }
  result->bytes = code.sh_size;
  result->code = static_cast<unsigned char *>(malloc(code.sh_size));
  if (!result->code) return "no memory";
  memcpy(result->code, object.base + code.sh_offset, code.sh_size);
  return nullptr;
}

int fail(sf_jit_result *result, const char *why) {
  snprintf(result->error, sizeof result->error, "%s", why);
  return -1;
}

bool compile(const sf_jit_policy &policy, sf_jit_result *result, std::string *error) {
  Work work;
  if (!work.lower(policy, error) || !work.optimise(error)) return false;
  Buffer buffer = work.emit(LLVMObjectFile, error);
  if (!buffer) return false;
  const char *why = extract(Object(buffer.get()), policy.programs, policy.count, result);
  if (why) *error = why;
  return !why;
}

bool give_text(const char *text, size_t bytes, sf_jit_result *result) {
  result->code = static_cast<unsigned char *>(malloc(bytes + 1));
  if (!result->code) return false;
  memcpy(result->code, text, bytes);
  result->code[bytes] = 0;
  result->bytes = bytes;
  return true;
}

bool describe(const sf_jit_policy &policy, sf_jit_stage stage, sf_jit_result *result, std::string *error) {
  Work work;
  if (!work.lower(policy, error)) return false;
  if (stage != SF_JIT_LOWERED && !work.optimise(error)) return false;
  if (stage == SF_JIT_ASSEMBLY) {
    LLVMSetTargetMachineAsmVerbosity(work.machine.get(), true);
    Buffer buffer = work.emit(LLVMAssemblyFile, error);
    return buffer && give_text(LLVMGetBufferStart(buffer.get()), LLVMGetBufferSize(buffer.get()), result);
  }
  char *text = LLVMPrintModuleToString(work.module.get());
  const bool given = give_text(text, strlen(text), result);
  LLVMDisposeMessage(text);
  return given;
}

// Runs one of the two. Not inlined: nothing that a jump out of it could leave half-changed lies in the caller's frame.
template <typename Task> __attribute__((noinline)) int run(Task task, sf_jit_result *result) {
  std::string error;
  return task(&error) ? 0 : fail(result, error.c_str());
}

template <typename Task> int guarded(uint64_t build, sf_jit_result *result, Task task) {
  memset(result, 0, sizeof *result);
  unsigned major = 0, minor = 0, patch = 0;
  LLVMGetVersion(&major, &minor, &patch);
  snprintf(result->compiler, sizeof result->compiler, "%u.%u.%u", major, minor, patch);
#ifndef __x86_64__
  return fail(result, "there is no compiler for this processor yet");
#endif
  if (build != SF_JIT_BUILD) return fail(result, "the compiler is of another build");
  initialise_once();
  jmp_buf escape;
  if (setjmp(escape) != 0) {
    on_fatal = nullptr;
    return fail(result, fatal_text);
  }
  on_fatal = &escape;
  const int status = run(task, result);
  on_fatal = nullptr;
  return status;
}

}  // namespace

#define SF_EXPORT extern "C" __attribute__((visibility("default")))

SF_EXPORT int sf_jit_compile(uint64_t build, const sf_jit_policy *policy, sf_jit_result *result) {
  return guarded(build, result, [=](std::string *error) { return compile(*policy, result, error); });
}

SF_EXPORT int sf_jit_text(uint64_t build, const sf_jit_policy *policy, sf_jit_stage stage, sf_jit_result *result) {
  return guarded(build, result, [=](std::string *error) { return describe(*policy, stage, result, error); });
}
