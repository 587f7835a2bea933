// A node by the name it has inside a mount. See keeper.h for who needs it.
#pragma once
#include <cstdint>
#include <string>

#include "descriptor.h"

namespace shortfuse::bridge {

struct Place {
  std::string mount_point; ///< empty: the node has no name that is known
  std::string path;        ///< relative, of any length; "": the root
  uint64_t nodeid = 0;
};

/// An O_PATH descriptor of a regular file or directory, if the node still is at the place; else *error. Nobody who may
/// rename inside the mount can lead this elsewhere: no link is followed, no other mount entered. Waits for the file
/// system: not for the daemon itself.
Descriptor find_place(const Place &place, int *error);

/// Opens anew what a descriptor is open on.
Descriptor open_again(int fd, int flags);

}  // namespace shortfuse::bridge
