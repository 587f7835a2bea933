// Any bytes as a policy that was compiled ahead of time: refused, or maps and programs within their bounds, which the
// verifier judges as it does an object's. Whether its machine code is used depends on the key alone (policy.cc).
//
// Of the header, what would end every attempt is mended: magic, version, sizes and the checksum.
#include <cstdlib>
#include <cstring>

#include "publish/precompiled.h"
#include "testing/testing.h"

using namespace shortfuse::vm;

namespace {

struct Mended { uint64_t magic; uint32_t version, header_bytes; uint64_t file_bytes, checksum; };
constexpr size_t kHeaderBytes = 72;

void mend(std::vector<unsigned char> *file) {
  const Mended begin{0x3169667365727573ull, 2, kHeaderBytes, file->size(), 0};
  memcpy(file->data(), &begin, sizeof begin);
  uint64_t sum = 0xcbf29ce484222325ull;
  for (size_t i = kHeaderBytes; i < file->size(); i++) sum = (sum ^ (*file)[i]) * 0x100000001b3ull;
  memcpy(file->data() + offsetof(Mended, checksum), &sum, sizeof sum);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  const LinkPlace place{1, 2, 3};
  (void)read_precompiled(data, size, "x", place);
  if (size < kHeaderBytes) return 0;
  std::vector<unsigned char> file(data, data + size);
  mend(&file);
  auto read = read_precompiled(file.data(), file.size(), "x", place);
  if (!read) return 0;
  // As behind others: the maps that come before it are there.
  std::vector<Policy::Map> maps(place.first_map);
  for (Policy::Map &map : maps) map.def = {SF_MAP_ARRAY, 4, 8, 1, 0, 0, 0, 0, "before"};
  for (Policy::Map &map : read->maps) maps.push_back(std::move(map));
  if (read->entries.size() != read->programs.size()) abort();
  for (size_t i = 0; i < read->programs.size(); i++) {
    if (read->entries[i] != kNoEntry && read->entries[i] >= read->code.size()) abort();
    uint64_t steps = 100'000;
    (void)verify_program(&read->programs[i], maps, "x", &steps);
  }
  return 0;
}
