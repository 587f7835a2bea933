// What ids of a state have come to stand for, while states are compared or joined: found as fast among a thousand as
// among few. 8 frames full of related numbers hold a thousand ids, and each of them is looked for at every comparison.
#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

namespace shortfuse::vm {

/// Two ids, and how far what they stand for is apart; or one.
struct IdKey {
  uint32_t a, b = 0;
  uint64_t shift = 0;
  bool operator==(const IdKey &) const = default;
  uint64_t hash() const {
    const uint64_t mixed = (uint64_t{b} << 32 | a) * 0x9e3779b97f4a7c15ull ^ shift;
    return (mixed ^ mixed >> 29) * 0xd6e8feb86659fd93ull;  // the upper bits are used
  }
};

/// Entries are never taken out. What [] returns stays where it is until the next [].
template <typename Value, typename Key = IdKey> class IdTable {
 public:
  /// What is there under the key; Value{} the first time.
  Value &operator[](const Key &key) {
    if (entries_.size() > kFew) return find_place(key);
    for (Entry &e : entries_) {
      if (e.key == key) return e.value;
    }
    entries_.push_back({key, Value{}});
    if (entries_.size() > kFew) grow();
    return entries_.back().value;
  }

 private:
  struct Entry { Key key; Value value; };
  static constexpr size_t kFew = 8;  // looked through one by one, as nearly always

  Value &find_place(const Key &key) {
    uint32_t *place = place_of(key);
    if (*place != 0) return entries_[*place - 1].value;
    entries_.push_back({key, Value{}});
    *place = static_cast<uint32_t>(entries_.size());
    if (entries_.size() * 2 > places_.size()) grow();
    return entries_.back().value;
  }
  // Where the key's number is, or would be: half of the places at least are free.
  uint32_t *place_of(const Key &key) {
    const size_t mask = places_.size() - 1;
    size_t at = static_cast<size_t>(key.hash() >> 32) & mask;
    while (places_[at] != 0 && !(entries_[places_[at] - 1].key == key)) at = (at + 1) & mask;
    return &places_[at];
  }
  void grow() {
    places_.assign(places_.empty() ? 4 * kFew : 2 * places_.size(), 0);
    for (size_t i = 0; i < entries_.size(); i++) *place_of(entries_[i].key) = static_cast<uint32_t>(i + 1);
  }

  std::vector<Entry> entries_;
  std::vector<uint32_t> places_;  // an entry's number + 1, 0: free; a power of two of them
};

}  // namespace shortfuse::vm
