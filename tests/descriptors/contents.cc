#include "descriptors/contents.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstring>

#include "support/harness.h"

namespace shortfuse::tests::descriptors {

bool is_of(uint64_t tag, uint64_t offset, const void *bytes, size_t size) {
  const auto *at = static_cast<const unsigned char *>(bytes);
  for (size_t i = 0; i < size;) {
    const uint64_t word = word_of(tag, (offset + i) / 8);
    unsigned char expected[8];
    std::memcpy(expected, &word, 8);
    const size_t from = (offset + i) % 8, n = std::min<size_t>(8 - from, size - i);
    if (std::memcmp(at + i, expected + from, n) != 0) return false;
    i += n;
  }
  return true;
}

uint64_t tag_of_descriptor(int fd) {
  uint64_t word = 0;
  return pread(fd, &word, sizeof word, 0) == sizeof word && (word & 0xffffff) == 0 ? word >> 24 : 0;
}

void put(const std::string &root, unsigned file, uint64_t generation) {
  const uint64_t tag = tag_of(file, generation);
  std::vector<uint64_t> words(words_of(tag));
  for (size_t i = 0; i < words.size(); ++i) words[i] = word_of(tag, i);
  const std::string fresh = root + "/new." + std::to_string(getpid());
  const int fd = open(fresh.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  const bool written = fd >= 0 && write(fd, words.data(), words.size() * 8) == static_cast<ssize_t>(words.size() * 8);
  close(fd);
  if (!written || rename(fresh.c_str(), path_of(root, file).c_str()) != 0) throw Broken("cannot make a file");
}

void make_files(const std::string &root) {
  for (unsigned i = 0; i < kDirectories; ++i) mkdir((root + "/d" + std::to_string(i)).c_str(), 0755);
  for (unsigned i = 0; i < kFiles; ++i) put(root, i, 1);
}

}  // namespace shortfuse::tests::descriptors
