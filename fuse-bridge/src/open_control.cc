// A descriptor for an application that was served an open, and needs the kernel to know of it (SF_MSG_OPEN).
//
// The node is opened through our own mount, by a name it has now; not by this process (opener.h). The connection goes
// there, too: it is asked one thing only, and should the opener end, so does the connection. Of a name that leads there
// no more (somebody has removed it behind the daemon's back) the client hears that it has moved, and asks for the next.
#include <fcntl.h>

#include <cstring>
#include <utility>

#include "control.h"

namespace shortfuse::bridge {

constexpr size_t kNamesTried = 8;

/// False: the connection is of no use here any more.
bool Control::open_node(Client &client, std::string_view bytes) {
  sf_open wanted;
  if (bytes.size() != sizeof(wanted) || client.session) return false;
  std::memcpy(&wanted, bytes.data(), sizeof(wanted));
  const auto paths = bridge_.cache().paths_of(wanted.nid, kNamesTried);
  constexpr int kFlags = O_DIRECTORY | O_NOFOLLOW | O_NONBLOCK | O_LARGEFILE;
  Place place{.nodeid = bridge_.cache().nodeid_of(wanted.nid)};
  if (!paths.empty()) {
    place.mount_point = bridge_.mount_point();
    place.path = paths[wanted.attempt % paths.size()];
  }
  Descriptor connection(fcntl(client.socket.get(), F_DUPFD_CLOEXEC, 0));
  if (connection)
    bridge_.keeper().open_for(std::move(connection), wanted.nid, std::move(place),
                              static_cast<int>(wanted.flags) & kFlags);
  return false;
}

}  // namespace shortfuse::bridge
