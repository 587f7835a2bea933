// Files whose bytes say whose they are: word k of a file is its tag and k, so that every piece read tells which
// contents it comes from and from where. A tag names the file and how often it was replaced; the size follows from it.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

namespace shortfuse::tests::descriptors {

constexpr unsigned kFiles = 24, kDirectories = 4;

inline uint64_t tag_of(unsigned file, uint64_t generation) { return generation << 8 | file; }
inline unsigned file_of_tag(uint64_t tag) { return tag & 0xff; }
inline size_t words_of(uint64_t tag) { return 512 + tag * 2654435761u % 3000; }
inline size_t size_of(uint64_t tag) { return words_of(tag) * 8; }
inline uint64_t word_of(uint64_t tag, uint64_t at) { return tag << 24 | at; }

inline std::string path_of(const std::string &root, unsigned file) {
  return root + "/d" + std::to_string(file % kDirectories) + "/f" + std::to_string(file);
}

/// Whether the bytes are the tag's at this offset.
bool is_of(uint64_t tag, uint64_t offset, const void *bytes, size_t size);
/// The tag that the descriptor's first word names, by pread; 0: none can be had.
uint64_t tag_of_descriptor(int fd);
/// The file appears under its name whole.
void put(const std::string &root, unsigned file, uint64_t generation);
void make_files(const std::string &root);

}  // namespace shortfuse::tests::descriptors
