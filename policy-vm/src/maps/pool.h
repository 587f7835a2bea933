// Elements that come into use and go out of it, under readers that hold no lock. Freestanding; the writer's half.
//
// An element that was taken out keeps its key and its link, for the readers that are on it, and comes back into use
// through a queue: not before kSpareElements - 1 others have. `taken` counts what comes into use. So what a reader has
// looked at was the same all the time unless `taken` has moved that far under it; then it looks again.
//
// Elements that were never used lie at the end and are touched only when the queue would be too short without them: a
// map takes as much memory as it has held elements.
//
// A writer that is killed half-way leaves at worst an element that is neither in use nor free: rebuild().
#pragma once
#include "maps/lookup.h"

namespace shortfuse::vm::maps {

class Pool {
 public:
  // `links`: a word per element, for the queue.
  Pool(Header *header, uint32_t *links, uint32_t elements) : header_(header), links_(links), elements_(elements) {}

  // An element to be filled; kNone: there is none, which a map that is not full never sees. `zeroed`: it is new.
  uint32_t take(bool *zeroed = nullptr) {
    uint32_t number = header_->free_first - 1;
    const bool used_before = number < elements_;
    if (zeroed != nullptr) *zeroed = !used_before;
    if (used_before) {
      header_->free_first = links_[number];
      if (header_->free_first == 0) header_->free_last = 0;
      --header_->queued;
    } else {
      number = header_->fresh;
      if (number >= elements_) return kNone;
      store_relaxed(&header_->fresh, number + 1);
    }
    store_relaxed(&header_->taken, header_->taken + 1);
    fence_release();  // the count, before anything of the element changes
    return number;
  }

  void give_back(uint32_t number) {
    while (header_->queued < kSpareElements && header_->fresh < elements_) {
      const uint32_t fresh = header_->fresh;
      store_relaxed(&header_->fresh, fresh + 1);
      append(fresh);
    }
    append(number);
  }

  // Everything that is not in use becomes free. `in_use(number)` says of each what it is.
  template <class InUse> void rebuild(InUse in_use) {
    // What readers are on may be taken at once.
    store_relaxed(&header_->taken, header_->taken + kSpareElements);
    fence_release();
    header_->queued = header_->free_first = header_->free_last = header_->count = 0;
    for (uint32_t number = 0; number < header_->fresh && number < elements_; ++number) {
      if (in_use(number)) {
        ++header_->count;
      } else {
        append(number);
      }
    }
  }

 private:
  void append(uint32_t number) {
    links_[number] = 0;
    const uint32_t last = header_->free_last - 1;
    if (last < elements_) {
      links_[last] = number + 1;
    } else {
      header_->free_first = number + 1;
    }
    header_->free_last = number + 1;
    ++header_->queued;
  }

  Header *header_;
  uint32_t *links_;
  uint32_t elements_;
};

}  // namespace shortfuse::vm::maps
