/* The commands of the scripts; see script.h. */
#pragma once
#include <sys/stat.h>

#include <map>
#include <string>
#include <vector>

namespace shortfuse::passthrough::testing {

/// What commands leave for later ones of the same case.
struct OpenSlots {
  std::map<std::string, int> files;          ///< descriptors by their name in the script
  std::map<std::string, struct stat> snaps;  ///< by path
};

std::string run_command(const std::vector<std::string>& words, OpenSlots* slots);
void close_slots(OpenSlots* slots);

}  // namespace shortfuse::passthrough::testing
