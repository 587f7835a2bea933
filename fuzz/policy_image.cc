// Any bytes as an image: sf_image_check() reads nothing outside, and what it lets through can be walked.
//
// The input is laid over a well-formed image as pairs of (position, byte), so that the checks behind the magic number
// are reached too.
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <memory>

#include "testing/testing.h"

using namespace shortfuse::vm;

namespace {

std::vector<uint64_t> well_formed() {
  using namespace testing;
  Code code = load_value(2, 3) + Code{load(8, 0, 2, 0), jump_imm(kEq, 0, 5, 1), mov(0, 0), leave()};
  auto policy = verified_policy({make_program(code, "fuse/lookup"), make_program(code, "fuse/lookup")});
  auto image = Image::publish(*policy, Lowering::InterpretOnly);
  std::vector<uint64_t> words(image->bytes() / 8);
  memcpy(words.data(), image->get(), image->bytes());
  return words;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  static const std::vector<uint64_t> original = well_formed();
  const size_t bytes = original.size() * 8;
  auto copy = std::make_unique<uint64_t[]>(original.size());
  memcpy(copy.get(), original.data(), bytes);
  auto *target = reinterpret_cast<unsigned char *>(copy.get());
  for (size_t i = 0; i + 3 <= size; i += 3) target[(data[i] | data[i + 1] << 8) % bytes] = data[i + 2];
  sf_image_check(copy.get(), bytes);
  size_t shorter = size % bytes;  // an allocation of exactly that size
  auto part = std::make_unique<uint64_t[]>(shorter / 8 + 1);
  memcpy(part.get(), target, shorter / 8 * 8);
  sf_image_check(part.get(), shorter / 8 * 8);
  return 0;
}
