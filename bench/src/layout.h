// What the tree looks like that is measured: shared by the program that makes it and the worker that uses it.
#pragma once
#include <cstdio>
#include <string>

namespace shortfuse::bench {

constexpr unsigned kMicroFiles = 1000;      ///< of 4 KiB each, in "micro"
constexpr unsigned kTreeFilesMin = 10'000;  ///< in "tree"
constexpr const char *kMicroDirectory = "micro";
constexpr const char *kTreeDirectory = "tree";
constexpr const char *kGitDirectory = "tree.git";
constexpr const char *kFioFile = "fio.dat";

inline std::string micro_file_name(unsigned number) {
  char name[32];
  snprintf(name, sizeof name, "file-%04u.txt", number);
  return name;
}

}  // namespace shortfuse::bench
