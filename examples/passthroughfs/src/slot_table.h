/* Numbers that stand for objects, given to the kernel as node ids and file handles.
 *
 * A number is the index of a slot and the count of the lives which that slot has had, so no number ever means two
 * things: a slot whose lives are used up (2^36) is not used again. find() takes no lock and answers nullptr for a
 * number that is not alive, so a request which names a wrong one is refused instead of reading freed memory.
 *
 * The object behind a number stays valid as long as the kernel holds the number: FUSE sends FORGET and RELEASE only
 * after every request which names the object has been answered. */
#pragma once
#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

namespace shortfuse::passthrough {

/// T must be default constructible. Thread-safe, except that what happens to *T is the caller's affair.
template <typename T>
class SlotTable {
 public:
  static constexpr unsigned kIndexBits = 28;  ///< 268 million objects at a time
  struct Reserved {
    uint64_t id;  ///< 0: the table is full
    T* object;
  };

  SlotTable() : chunks_(std::make_unique<Chunks>()) {}
  ~SlotTable() {
    for (auto& chunk : *chunks_) delete[] chunk.load(std::memory_order_relaxed);
  }

  /// A slot which find() does not show before publish(). Indices start at 1, so the first number is 1.
  Reserved reserve() {
    std::lock_guard guard(mutex_);
    uint64_t index;
    if (!free_.empty()) {
      index = free_.back();
      free_.pop_back();
    } else {
      if (used_ >= kMaxSlots) return {0, nullptr};
      index = used_;
      auto& chunk = (*chunks_)[index / kChunk];
      if (!chunk.load(std::memory_order_relaxed)) chunk.store(new Slot[kChunk], std::memory_order_release);
      ++used_;
    }
    Slot& slot = at(index);
    return {slot.lives << kIndexBits | index, &slot.object};
  }

  /// Release: whoever finds the number sees the object complete.
  void publish(uint64_t id) {
    at(index_of(id)).id.store(id, std::memory_order_release);
    live_.fetch_add(1, std::memory_order_relaxed);
  }

  /// The object, or nullptr when no such number is alive.
  T* find(uint64_t id) const {
    uint64_t index = index_of(id);
    Slot* chunk = (*chunks_)[index / kChunk].load(std::memory_order_acquire);
    if (!chunk || id == 0) return nullptr;
    Slot& slot = chunk[index % kChunk];
    return slot.id.load(std::memory_order_acquire) == id ? &slot.object : nullptr;
  }

  /// Ends a life. REQUIRES: `id` was published, and what the object held has been taken out.
  void retire(uint64_t id) {
    uint64_t index = index_of(id);
    Slot& slot = at(index);
    slot.id.store(0, std::memory_order_release);
    live_.fetch_sub(1, std::memory_order_relaxed);
    std::lock_guard guard(mutex_);
    if (++slot.lives < kMaxLives) free_.push_back(index);
  }

  /// How many are alive; a hint, for limits and statistics.
  uint64_t size() const { return live_.load(std::memory_order_relaxed); }
  /// One more than the highest index ever used; ids in between are found by id_at().
  uint64_t extent() {
    std::lock_guard guard(mutex_);
    return used_;
  }
  uint64_t id_at(uint64_t index) const { return at(index).id.load(std::memory_order_acquire); }

  static uint64_t generation(uint64_t id) { return id >> kIndexBits; }

 private:
  static constexpr uint64_t kChunk = 4096;
  static constexpr uint64_t kMaxSlots = 1ull << kIndexBits;
  static constexpr uint64_t kMaxLives = 1ull << (64 - kIndexBits);
  struct Slot {
    std::atomic<uint64_t> id{0};
    uint64_t lives = 0;  // guarded by mutex_
    T object{};
  };
  using Chunks = std::array<std::atomic<Slot*>, kMaxSlots / kChunk>;

  static uint64_t index_of(uint64_t id) { return id & (kMaxSlots - 1); }
  Slot& at(uint64_t index) const {
    return (*chunks_)[index / kChunk].load(std::memory_order_acquire)[index % kChunk];
  }

  std::unique_ptr<Chunks> chunks_;
  std::mutex mutex_;
  std::vector<uint64_t> free_;
  uint64_t used_ = 1;
  std::atomic<uint64_t> live_{0};
};

}  // namespace shortfuse::passthrough
