// Finding the compiler, and running it.
#include "publish/compiler.h"

#include <dlfcn.h>
#include <pthread.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <map>
#include <memory>

#include "isa/insn.h"
#include "lower/jit.h"

namespace shortfuse::vm {
namespace {

constexpr size_t kCompilerStackBytes = 16u << 20;  // LLVM recurses; threads of a daemon may have small stacks
// Mounting waits for the compiler: what would take more than about two seconds is interpreted, or calls what could have
// been inlined.
constexpr size_t kCompiledInsnsMax = 16384, kProgramInsnsMax = 4096, kInlinedCallsMax = 512;
constexpr size_t kCodeAlignment = 64;
constexpr const char *kJitLibrary = "libshortfuse-jit.so";

void *find_function(const char *name, std::string *why);

// Next to whatever holds this code (libshortfuse-bridge.so, an executable in bin/ beside lib/), else by soname.
std::vector<std::string> jit_candidates() {
  std::vector<std::string> out;
  Dl_info info;
  if (dladdr(reinterpret_cast<void *>(&find_function), &info) && info.dli_fname) {
    // Of the program itself this is the name that it was started by, perhaps found in PATH or from another directory.
    const char *name = info.dli_fname[0] == '/' ? info.dli_fname : "/proc/self/exe";
    std::unique_ptr<char, decltype(&free)> real(realpath(name, nullptr), &free);
    std::string path = real ? real.get() : info.dli_fname;
    if (size_t slash = path.find_last_of('/'); slash != std::string::npos) {
      out.push_back(path.substr(0, slash + 1) + kJitLibrary);
      out.push_back(path.substr(0, slash + 1) + "../lib/" + kJitLibrary);
    }
  }
  out.push_back(kJitLibrary);
  return out;
}

void *find_function(const char *name, std::string *why) {
  *why = std::string(kJitLibrary) + " was not found";
  for (const std::string &path : jit_candidates()) {
    if (path.find('/') != std::string::npos && access(path.c_str(), R_OK) != 0) continue;
    // Never unloaded: LLVM does not survive that.
    void *library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
    if (!library) {
      const char *error = dlerror();
      *why = error ? error : "the compiler cannot be loaded";
      continue;
    }
    if (void *symbol = dlsym(library, name)) return symbol;
    *why = path + " is not shortfuse's compiler";
  }
  return nullptr;
}

// A policy as the compiler takes it. Programs of equal bytes share their code: policies attach one function to many
// operations.
struct CompileJob {
  std::vector<sf_jit_program> programs;
  std::vector<size_t> index;  // per program of the policy
  std::vector<sf_jit_map> maps;
  sf_jit_policy policy{};
  sf_jit_result result{};
  int status = -1;
  sf_jit_compile_fn compile = nullptr;
  sf_jit_text_fn text = nullptr;  // or this one
  sf_jit_stage stage{};

  /// `all`: also programs that came with their code.
  CompileJob(const Policy &from, bool all) {
    std::map<std::vector<uint64_t>, size_t> distinct;
    for (const Policy::Program &p : from.programs) {
      if (p.code_block >= 0 && !all) {
        index.push_back(0);  // it has its code
        continue;
      }
      auto [entry, is_new] = distinct.try_emplace(p.insns, programs.size());
      if (is_new) programs.push_back({p.insns.data(), static_cast<uint32_t>(p.insns.size()), p.stack_bytes, 0});
      index.push_back(entry->second);
    }
    for (const Policy::Map &m : from.maps) {
      const bool constant = m.frozen && m.initial.size() == m.def.value_size;
      maps.push_back({sf_image_map_shape(&m.def), constant ? m.initial.data() : nullptr,
                      m.inner.empty() ? sf_map_shape{} : sf_image_map_shape(&m.inner[0])});
    }
    policy = {programs.data(), programs.size(), maps.data(), maps.size(), from.calls_inlined};
  }
  size_t insns() const {
    size_t count = 0;
    for (const sf_jit_program &p : programs) count += p.count;
    return count;
  }
  size_t longest() const {
    size_t most = 0;
    for (const sf_jit_program &p : programs) most = std::max<size_t>(most, p.count);
    return most;
  }
  // At most so many; the second half of a constant may look like one.
  size_t calls() const {
    size_t count = 0;
    for (const sf_jit_program &p : programs) {
      count += static_cast<size_t>(std::count_if(p.insns, p.insns + p.count,
                                                 [](uint64_t insn) { return (insn & 0xff) == kOpCall; }));
    }
    return count;
  }
  ~CompileJob() { free(result.code); }
  CompileJob(const CompileJob &) = delete;
  CompileJob &operator=(const CompileJob &) = delete;
};

void *run_compile_job(void *arg) {
  auto *job = static_cast<CompileJob *>(arg);
  job->status = job->text ? job->text(SF_JIT_BUILD, &job->policy, job->stage, &job->result)
                          : job->compile(SF_JIT_BUILD, &job->policy, &job->result);
  return nullptr;
}

// On a thread of its own, for its stack, which is gone when this returns; no signal of the daemon lands on it.
bool run_on_large_stack(CompileJob *job) {
  pthread_attr_t attr;
  if (pthread_attr_init(&attr) != 0) return false;
  pthread_attr_setstacksize(&attr, kCompilerStackBytes);
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_BLOCK, &all, &before);
  pthread_t thread;
  int error = pthread_create(&thread, &attr, run_compile_job, job);
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  pthread_attr_destroy(&attr);
  return error == 0 && pthread_join(thread, nullptr) == 0;
}

// Why it failed, or nothing.
std::string run(CompileJob *job) {
  if (!run_on_large_stack(job)) return "no thread for the compiler";
  return job->status == 0 ? "" : std::string("the compiler failed: ") + job->result.error;
}

}  // namespace

MachineCode precompiled_code(const Policy &policy) {
  MachineCode out;
  std::vector<size_t> begins;
  for (const auto &block : policy.code_blocks) {
    out.bytes.resize((out.bytes.size() + kCodeAlignment - 1) / kCodeAlignment * kCodeAlignment);
    begins.push_back(out.bytes.size());
    out.bytes.insert(out.bytes.end(), block.begin(), block.end());
  }
  for (const Policy::Program &p : policy.programs) {
    const bool there = p.code_block >= 0;
    out.entry.push_back(there ? static_cast<uint32_t>(begins[static_cast<size_t>(p.code_block)] + p.code_entry) : ~0u);
  }
  return out;
}

std::expected<MachineCode, std::string> machine_code(const Policy &policy) {
  MachineCode out = precompiled_code(policy);
  CompileJob job(policy, false);
  if (job.programs.empty()) return out;
  if (job.calls() > kInlinedCallsMax) job.policy.inline_calls = 0;
  if (job.insns() > kCompiledInsnsMax)
    return std::unexpected("more than " + std::to_string(kCompiledInsnsMax) + " instructions");
  if (job.longest() > kProgramInsnsMax)
    return std::unexpected("a program has more than " + std::to_string(kProgramInsnsMax) + " instructions");
  std::string why;
  job.compile = reinterpret_cast<sf_jit_compile_fn>(find_function(SF_JIT_COMPILE_SYMBOL, &why));
  if (!job.compile || !(why = run(&job)).empty()) return std::unexpected(why);
  out.bytes.resize((out.bytes.size() + kCodeAlignment - 1) / kCodeAlignment * kCodeAlignment);
  const size_t begin = out.bytes.size();
  out.compiler = job.result.compiler;
  out.bytes.insert(out.bytes.end(), job.result.code, job.result.code + job.result.bytes);
  for (size_t i = 0; i < policy.programs.size(); i++) {
    if (out.entry[i] != ~0u) continue;
    const uint32_t entry = job.programs[job.index[i]].entry;
    if (entry >= job.result.bytes) return std::unexpected("the compiler gave no entry");
    out.entry[i] = static_cast<uint32_t>(begin + entry);
  }
  return out;
}

std::expected<std::string, Refusal> compiler_text(const Policy &policy, CompilerStage stage) {
  CompileJob job(policy, true);
  std::string why;
  job.text = reinterpret_cast<sf_jit_text_fn>(find_function(SF_JIT_TEXT_SYMBOL, &why));
  job.stage = static_cast<sf_jit_stage>(stage);
  if (!job.text || !(why = run(&job)).empty())
    return std::unexpected(Refusal{"lowering-failed", "no machine code: " + why, ""});
  return std::string(reinterpret_cast<const char *>(job.result.code), job.result.bytes);
}

}  // namespace shortfuse::vm
