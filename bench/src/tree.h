// The directory that everything is measured on.
#pragma once
#include <cstdint>
#include <string>

namespace shortfuse::bench {

struct TreeFigures {
  uint64_t files = 0, directories = 0, bytes = 0;
  std::string filesystem;  ///< "ext4" is what the bars are made for
};

/// Makes micro/, tree/ and fio.dat (layout.h) below `root`: tree/ is a copy of what this machine has of real sources
/// (/usr/include and the like), filled up with generated ones to kTreeFilesMin. The same machine gives the same tree.
TreeFigures make_tree(const std::string &root, uint64_t fio_bytes);

}  // namespace shortfuse::bench
