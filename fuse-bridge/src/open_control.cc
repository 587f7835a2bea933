// A descriptor for an application that was served an open, and needs the kernel to know of it (SF_MSG_OPEN).
//
// The node is opened through our own mount, by the name it has now; not by this process (opener.h). The connection goes
// there, too: it is asked one thing only, and should the opener end, so does the connection.
#include <fcntl.h>

#include <cstring>
#include <utility>

#include "control.h"

namespace shortfuse::bridge {

/// False: the connection is of no use here any more.
bool Control::open_node(Client &client, std::string_view bytes) {
  sf_open wanted;
  if (bytes.size() != sizeof(wanted) || client.session) return false;
  std::memcpy(&wanted, bytes.data(), sizeof(wanted));
  const auto path = bridge_.cache().path_of(wanted.nid);
  constexpr int kFlags = O_DIRECTORY | O_NOFOLLOW | O_NONBLOCK | O_LARGEFILE;
  Place place{path ? bridge_.mount_point() : std::string(), path.value_or(""), bridge_.cache().nodeid_of(wanted.nid)};
  Descriptor connection(fcntl(client.socket.get(), F_DUPFD_CLOEXEC, 0));
  if (connection)
    bridge_.keeper().open_for(std::move(connection), wanted.nid, std::move(place),
                              static_cast<int>(wanted.flags) & kFlags);
  return false;
}

}  // namespace shortfuse::bridge
