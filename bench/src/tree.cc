#include "tree.h"

#include <fmt/format.h>
#include <sys/vfs.h>

#include <filesystem>
#include <fstream>
#include <set>

#include "layout.h"
#include "process.h"

namespace shortfuse::bench {

namespace fs = std::filesystem;

namespace {

constexpr uint64_t kTreeFilesMax = 14'000;
constexpr uint64_t kFileBytesMax = 1 << 20;  ///< larger ones would make it a test of memory bandwidth

/// A fixed sequence, so that two runs measure the same bytes.
class Sequence {
 public:
  uint32_t next() { return state_ = state_ * 1664525 + 1013904223; }
  uint32_t below(uint32_t limit) { return (next() >> 8) % limit; }

 private:
  uint32_t state_ = 20240521;
};

void write_file(const fs::path &path, const std::string &text) {
  std::ofstream file(path, std::ios::binary);
  file.write(text.data(), static_cast<std::streamsize>(text.size()));
  if (!file.flush()) throw Failure(path.string() + ": cannot be written");
}

void copy_tree(const fs::path &from, const fs::path &to, TreeFigures &figures) {
  std::error_code failed;
  fs::create_directories(to, failed);
  figures.directories++;
  // In order of name: what is copied before the limit is reached must not depend on the directory's own order.
  std::set<fs::directory_entry> entries;
  for (const auto &entry : fs::directory_iterator(from, fs::directory_options::skip_permission_denied, failed)) {
    entries.insert(entry);
  }
  for (const auto &entry : entries) {
    check_interrupted();
    if (figures.files >= kTreeFilesMax) return;
    if (entry.is_symlink(failed)) continue;  // most lead out of the tree
    if (entry.is_directory(failed)) {
      copy_tree(entry.path(), to / entry.path().filename(), figures);
    } else if (entry.is_regular_file(failed) && entry.file_size(failed) <= kFileBytesMax) {
      if (!fs::copy_file(entry.path(), to / entry.path().filename(), failed)) continue;
      figures.files++;
      figures.bytes += entry.file_size(failed);
    }
  }
}

std::string source_text(Sequence &random) {
  static const char *const words[] = {"static", "const", "struct", "node", "return", "offset", "length", "buffer",
                                      "if",     "while", "entry",  "size", "open",   "close",  "lookup", "inode"};
  std::string text;
  const uint32_t lines = 10 + random.below(200);
  for (uint32_t line = 0; line < lines; line++) {
    for (uint32_t i = 0; i < 2 + random.below(8); i++) text.append(words[random.below(16)]).append(" ");
    text += fmt::format("x{};\n", random.below(1000));
  }
  return text;
}

void generate(const fs::path &root, TreeFigures &figures) {
  Sequence random;
  for (unsigned directory = 0; figures.files < kTreeFilesMin; directory++) {
    const fs::path path = root / fmt::format("part{}", directory / 20) / fmt::format("module{}", directory);
    fs::create_directories(path);
    figures.directories++;
    for (unsigned i = 0; i < 60; i++) {
      check_interrupted();
      const std::string text = source_text(random);
      write_file(path / fmt::format("unit{}.{}", i, i % 3 == 0 ? "h" : "c"), text);
      figures.files++;
      figures.bytes += text.size();
    }
  }
}

std::string filesystem_name(const std::string &path) {
  struct statfs st{};
  if (statfs(path.c_str(), &st) != 0) return "unknown";
  switch (static_cast<uint32_t>(st.f_type)) {
    case 0xEF53: return "ext4";
    case 0x58465342: return "xfs";
    case 0x9123683E: return "btrfs";
    case 0x01021994: return "tmpfs";
    case 0x794c7630: return "overlayfs";
    default: return fmt::format("type {:#x}", static_cast<uint32_t>(st.f_type));
  }
}

}  // namespace

TreeFigures make_tree(const std::string &root, uint64_t fio_bytes) {
  const fs::path micro = fs::path(root) / kMicroDirectory, tree = fs::path(root) / kTreeDirectory;
  fs::create_directories(micro);
  TreeFigures figures;
  figures.filesystem = filesystem_name(root);
  for (unsigned i = 0; i < kMicroFiles; i++) {
    write_file(micro / micro_file_name(i), std::string(4096, static_cast<char>('a' + i % 26)));
  }
  // Real sources first: their depth, names and sizes are what people have.
  for (const char *from : {"/usr/lib/python3", "/usr/include", "/usr/share/perl", "/usr/share/doc"}) {
    if (figures.files >= kTreeFilesMin || !fs::is_directory(from)) continue;
    copy_tree(from, tree / fs::path(from).filename(), figures);
  }
  generate(tree / "generated", figures);

  Sequence random;
  std::string block(1 << 20, '\0');
  std::ofstream fio(fs::path(root) / kFioFile, std::ios::binary);
  for (uint64_t done = 0; done < fio_bytes; done += block.size()) {
    check_interrupted();
    for (char &c : block) c = static_cast<char>(random.next() >> 24);
    fio.write(block.data(), static_cast<std::streamsize>(block.size()));
  }
  if (!fio.flush()) throw Failure(root + ": no room for the tree");
  return figures;
}

}  // namespace shortfuse::bench
