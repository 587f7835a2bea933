// A policy ready to run in this process, over maps of its own: for trying programs out and for applications that embed
// the virtual machine. (The daemon and the hook have their own surroundings: shared maps, the cache.)
//
// Runs may happen in several threads at once; per-CPU maps have one value for all of them. Everything else by one
// thread, while nothing runs. What programs are given lives as long as the Runtime.
#pragma once
#include <cstdint>
#include <expected>
#include <memory>
#include <string>
#include <vector>

#include "shortfuse/vm/image.h"
#include "shortfuse/vm/map.h"
#include "shortfuse/vm/vm.h"

namespace shortfuse::vm {

class Runtime {
 public:
  static std::expected<std::unique_ptr<Runtime>, Refusal> create(const Policy &policy, Lowering lowering);
  /// The functions that need nothing but this process: time, random numbers, ids, strings.
  void add_process_functions();
  ~Runtime();
  Runtime(const Runtime &) = delete;
  Runtime &operator=(const Runtime &) = delete;

  const sf_image *image() const { return image_; }
  bool compiled() const { return image_->code_bytes != 0; }
  const std::string &why_interpreted() const { return why_interpreted_; }

  /// Functions that programs call, below SF_HOST_LIMIT; those of SF_VM_FUNCTIONS are in place. `state` is what they get
  /// as their last argument (those of SF_VM_FUNCTIONS: the environment).
  void set_function(uint32_t id, sf_host_fn fn);
  sf_host_fn function(uint32_t id) const { return host_[id]; }
  void set_state(void *state) { env_.host_state = state; }

  size_t maps() const { return maps_.size(); }
  sf_map *map(uint32_t index) { return &maps_[index]; }

  /// The verdict of a slot's chain, as the daemon would get it.
  int run_chain(unsigned slot, void *ctx) const {
    sf_vm_env env = env_;
    return sf_policy_run(image_, slot, ctx, &env);
  }
  /// What one program returns, with those that it calls by tail calls.
  struct Result { uint64_t r0; bool out_of_fuel; };
  Result run_program(uint32_t index, void *ctx) const {
    sf_vm_env env = env_;
    const uint64_t r0 = sf_program_run(image_, index, ctx, &env);
    return {r0, env.fuel == 0};
  }

 private:
  struct Mapping { void *base; size_t bytes; };
  Runtime() = default;
  std::expected<void, Refusal> make_map(const Policy::Map &map);
  std::expected<void *, Refusal> memory(size_t bytes, int fd);

  const sf_image *image_ = nullptr;
  std::string why_interpreted_;
  std::vector<Mapping> mappings_;
  std::vector<sf_map> maps_;
  std::vector<sf_map *> map_handles_;
  std::vector<void *> map_values_;
  std::vector<sf_host_fn> host_;
  sf_vm_env env_{};
};

}  // namespace shortfuse::vm
