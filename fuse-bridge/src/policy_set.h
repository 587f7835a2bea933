// The policy that is active on a mount: verified chain, published image, map storage.
//
// A PolicySet is immutable once loaded and held by shared_ptr: a request that began under one policy ends under it,
// whatever is swapped in meanwhile. Loading (verification, compilation) happens off the path of any request.
#pragma once
#include <expected>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "map_storage.h"
#include "shortfuse/vm/map.h"
#include "shortfuse/vm/vm.h"

namespace shortfuse::bridge {

class PolicySet {
 public:
  /// Loads the chain. Maps that `previous` has under the same name and shape (except globals) are taken over with
  /// their contents. Maps of more than `maps_budget_bytes` in all are refused. The refusal is for people.
  static std::expected<std::shared_ptr<const PolicySet>, std::string> load(const std::vector<std::string> &paths,
                                                                           const PolicySet *previous,
                                                                           uint64_t maps_budget_bytes);
  ~PolicySet();

  const sf_image *image() const { return image_; }
  int image_fd() const { return image_fd_.get(); }
  const std::vector<std::shared_ptr<MapStorage>> &maps() const { return maps_; }
  void *const *map_values() const { return map_values_.data(); }
  sf_map *const *map_handles() const { return map_handles_.data(); }
  const vm::Policy &policy() const { return policy_; }
  const std::string &why_interpreted() const { return why_interpreted_; }

  bool has(unsigned slot) const { return sf_image_has(image_, slot) != 0; }
  /// It keeps file contents, so writers must stay visible and splice and passthrough are taken away.
  bool keeps_data() const;
  /// Some program looks at names and may deny them.
  bool looks_at_names() const;

 private:
  vm::Policy policy_;
  Descriptor image_fd_;
  const sf_image *image_ = nullptr;
  size_t image_bytes_ = 0;
  std::string why_interpreted_;
  std::vector<std::shared_ptr<MapStorage>> maps_;
  std::vector<void *> map_values_;
  std::vector<sf_map *> map_handles_;
};

/// The set in force. A lock rather than std::atomic<shared_ptr>: held for a copy of two words.
class ActivePolicy {
 public:
  std::shared_ptr<const PolicySet> load() const {
    std::lock_guard guard(lock_);
    return set_;
  }
  void store(std::shared_ptr<const PolicySet> set) {
    {
      std::lock_guard guard(lock_);
      set_.swap(set);
    }
    // The former one, if nobody else has it, ends here, outside the lock.
  }

 private:
  mutable std::mutex lock_;
  std::shared_ptr<const PolicySet> set_;
};

}  // namespace shortfuse::bridge
