// Contents of pinned maps between mounts: a file per map.
//
// Where: /var/lib/shortfuse/maps for root, $XDG_STATE_HOME/shortfuse/maps or ~/.local/state/shortfuse/maps for others
// (SHORTFUSE_STATE before either). Which: by mount point, source of the file system, and the map's name. A file that is
// damaged, of another version, shape or mount, or that somebody else may write, is dropped, said so, and the map begins
// empty. Written whole beside the old one and put in its place, when something has changed.
//
// Used by one thread at a time.
#pragma once
#include <map>
#include <string>

#include "map_storage.h"

namespace shortfuse::bridge {

class PinStore {
 public:
  /// `mount`: what tells this mount from others, its mount point and the source of the file system. Empty `directory`:
  /// nothing is kept.
  PinStore(std::string directory, std::string mount) : directory_(std::move(directory)), mount_(std::move(mount)) {}
  static std::string default_directory();

  /// Fills a pinned map that has not been filled before. A line about what was dropped, or "".
  std::string restore(MapStorage &map);
  /// `sums`: of a per-CPU map, over all processes. A line about what failed, or "".
  std::string save(MapStorage &map, const std::map<std::string, std::string> &sums);

  std::string path_of(const MapStorage &map) const;

 private:
  std::string identity_of(const MapStorage &map) const;
  std::string directory_, mount_;
  std::map<std::string, uint64_t> saved_;   ///< path: checksum of what is in the file
};

}  // namespace shortfuse::bridge
