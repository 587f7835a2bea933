// RINGBUF: records that programs leave for whoever reads them, in the order in which they were begun.
//
// As in the kernel: a header of 8 bytes (length with BUSY and DISCARD, here with the thread that writes), the record,
// padded to 8; positions that only grow. A record lies in one piece: the memory is twice the ring, and one that begins
// before the end of the ring goes on behind it. Two records never meet there, because their places in the ring do not.
//
// Whoever reserves holds the writers' lock for a moment; filling and submitting need none. The other side trusts
// nothing: its position is its own, every length is loaded once and checked, and each call ends after one round.
#include <errno.h>

#include "maps/kinds.h"

namespace shortfuse::vm::maps {
namespace {

constexpr uint32_t kBusy = 1u << 31, kDiscard = 1u << 30, kLength = kDiscard - 1;
constexpr uint64_t kPageBytes = 4096, kRecordBytesMax = ~0u / 4;

// What is written of a record before its bytes: the length in the lower half, the thread in the upper one.
using RecordHeader = uint64_t;
constexpr uint64_t header_of_record(uint32_t length, uint32_t thread) { return uint64_t{thread} << 32 | length; }

uint64_t bytes(const struct sf_map_shape &shape) {
  const uint64_t ring = shape.max_entries;
  if (shape.key_size != 0 || ring == 0 || (ring & (ring - 1)) != 0 || ring % kPageBytes != 0) return 0;
  return kHeaderBytes + 2 * ring;
}

uint64_t *producer_of(const struct sf_map &map) { return &header_of(map.storage)->words[0]; }
uint64_t *lost_of(const struct sf_map &map) { return &header_of(map.storage)->words[1]; }
uint64_t *consumer_of(const struct sf_map &map) { return &header_of(map.storage)->others[0]; }
RecordHeader *record_at(const struct sf_map &map, uint64_t position) {
  return reinterpret_cast<RecordHeader *>(at(map.storage, kHeaderBytes + (position & (map.shape.max_entries - 1))));
}
constexpr uint64_t bytes_of_record(uint64_t length) { return round8(length + sizeof(RecordHeader)); }

}  // namespace

void ring_count_lost(const struct sf_map &map) { __atomic_add_fetch(lost_of(map), 1, __ATOMIC_RELAXED); }

const Kind kRingbuf = {.bytes = bytes};

}  // namespace shortfuse::vm::maps

using namespace shortfuse::vm::maps;

extern "C" {

void *sf_ring_reserve(struct sf_map *map, uint64_t bytes, uint32_t thread) {
  const uint64_t position = load_relaxed(producer_of(*map));
  const bool fits = bytes <= kRecordBytesMax && bytes_of_record(bytes) < map->shape.max_entries &&
                    position + bytes_of_record(bytes) - load_acquire(consumer_of(*map)) < map->shape.max_entries;
  if (!fits) return ring_count_lost(*map), nullptr;
  RecordHeader *record = record_at(*map, position);
  store_relaxed(record, header_of_record(static_cast<uint32_t>(bytes) | kBusy, thread));
  store_release(producer_of(*map), position + bytes_of_record(bytes));  // publishes the header
  return record + 1;
}

// A record that took too long was left out by the reader, and its place may hold anything by now: only what is still
// the thread's own unfinished record is committed.
void sf_ring_commit(void *record, int discard, uint32_t thread) {
  RecordHeader *header = static_cast<RecordHeader *>(record) - 1, was = load_relaxed(header);
  if ((was & kBusy) == 0 || was >> 32 != thread) return;
  const uint32_t length = static_cast<uint32_t>(was) & kLength;
  // Release: publishes the record.
  __atomic_compare_exchange_n(header, &was, header_of_record(length | (discard ? kDiscard : 0), thread), false,
                              __ATOMIC_RELEASE, __ATOMIC_RELAXED);
}

// Who holds the lock sees no record's place used again.
void sf_ring_discard_open(struct sf_map *map, uint32_t thread) {
  const uint64_t ring = map->shape.max_entries, producer = load_relaxed(producer_of(*map));
  uint64_t position = load_acquire(consumer_of(*map));
  for (uint64_t there; (there = producer - position) != 0;) {
    const uint64_t length = load_relaxed(record_at(*map, position)) & kLength;
    if (there > ring || there % 8 != 0 || bytes_of_record(length) > there) return;  // not in order: the reader's affair
    sf_ring_commit(record_at(*map, position) + 1, 1, thread);
    position += bytes_of_record(length);
  }
}

uint64_t sf_ring_query(const struct sf_map *map, uint64_t what) {
  const uint64_t consumer = load_acquire(consumer_of(*map)), producer = load_acquire(producer_of(*map));
  switch (what) {
    case 0: return producer - consumer;      // BPF_RB_AVAIL_DATA
    case 1: return map->shape.max_entries;   // BPF_RB_RING_SIZE
    case 2: return consumer;                 // BPF_RB_CONS_POS
    case 3: return producer;                 // BPF_RB_PROD_POS
    default: return 0;
  }
}

uint64_t sf_ring_lost(const struct sf_map *map) { return load_relaxed(lost_of(*map)); }

int64_t sf_ring_take(const struct sf_map *map, uint64_t *position, void *out, size_t room, int skip_busy) {
  const uint64_t ring = map->shape.max_entries, producer = load_acquire(producer_of(*map)) & ~uint64_t{7};
  int64_t result = -EAGAIN;
  // At most one round.
  for (uint64_t there; result == -EAGAIN && (there = producer - *position) != 0;) {
    const bool in_order = there <= ring && there % 8 == 0;
    const RecordHeader *record = record_at(*map, *position);
    const uint32_t word = in_order ? static_cast<uint32_t>(load_acquire(record)) : 0;
    const uint64_t length = word & kLength;
    if (!in_order || bytes_of_record(length) > there) {
      *position = producer;  // left behind, with everything between
      result = -EPROTO;
    } else if ((word & kBusy) != 0) {
      result = skip_busy ? -ENODATA : -EBUSY;
    } else if ((word & kDiscard) == 0) {
      result = length <= room ? static_cast<int64_t>(length) : -ENOBUFS;
      if (result >= 0) copy_shared(out, record + 1, length);
    }
    const bool passed = result == -EAGAIN || result >= 0 || result == -ENODATA;
    if (passed) *position += bytes_of_record(length);
  }
  // Frees the room, that of discarded records before the one that is waited for as well.
  store_release(consumer_of(*map), *position);
  return result;
}

}  // extern "C"
