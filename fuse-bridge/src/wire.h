// The FUSE wire format, as far as the bridge has to understand it.
//
// One codec for both directions and every opcode: parse_request() turns the bytes of one request into a Request whose
// strings and structs were bounds-checked, touches_of() says which records of the cache a request changes, and the
// reply readers do the same for what comes back. Nothing else in the bridge looks at raw protocol bytes.
// Format: <linux/fuse.h>; behaviour: fs/fuse/ of the kernel. A request we cannot parse is passed on unseen, except that
// a mutation is never missed: an opcode that is not in the table empties the cache (touches.everything).
#pragma once
#include <linux/fuse.h>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "shortfuse/cache/cache.h"

namespace shortfuse::bridge {

using Bytes = std::span<const std::byte>;

/// Later than Debian 12's <linux/fuse.h>; numbers from the protocol (7.39 and later).
constexpr uint32_t kOpcodeStatx = 52;
constexpr uint32_t kOpcodes = 64;               ///< opcodes at or above it are not counted one by one
constexpr uint32_t kInitFlags2Passthrough = 1u << 5;   ///< FUSE_PASSTHROUGH, bit 37
constexpr uint32_t kInitFlags2OverIoUring = 1u << 9;   ///< FUSE_OVER_IO_URING, bit 41

/// One request. Points into the buffer it was parsed from.
struct Request {
  fuse_in_header header{};
  Bytes arguments;                ///< after the header
  std::string_view name;          ///< lookup, create..., unlink, rename (old name), xattr name
  std::string_view new_name;      ///< rename, rename2 (link's name is `name`)
  uint64_t other_node = 0;        ///< rename: the new directory; link: the node linked; copy_file_range: target
  uint64_t file_handle = 0;
  uint64_t offset = 0;
  uint64_t length = 0;
  /// open flags (open, opendir, create, release); rename2's flags; setattr's valid mask; ioctl's command; lseek's way
  uint32_t flags = 0;
  bool for_bridge = false;        ///< made by the bridge itself
};

/// The request in `message`, or nothing when its bytes do not hold together.
std::optional<Request> parse_request(Bytes message);

/// What a request changes, in terms of nodes and names. Node ids that are not known touch nothing of ours.
struct Touches {
  std::vector<cache::TouchedNode> nodes;
  std::vector<cache::TouchedName> names;
  bool old_names = false;    ///< a name of a file that may be there already goes, changes, or gets another file
  bool everything = false;
  bool empty() const { return nodes.empty() && names.empty() && !everything; }
};
Touches touches_of(const Request &request, const cache::Cache &cache);

/// Whether the opcode has a reply at all (FORGET, BATCH_FORGET, and the answer to NOTIFY_RETRIEVE have none).
bool has_reply(uint32_t opcode);
/// Whether the open flags allow writing.
bool opens_for_writing(uint32_t flags);
/// The reply begins with a fuse_entry_out.
bool replies_with_entry(uint32_t opcode);

/// A struct at `offset` of the bytes, or nothing when they end before it does.
template <typename T>
std::optional<T> read_struct(Bytes bytes, size_t offset = 0) {
  T value;
  if (bytes.size() < offset || bytes.size() - offset < sizeof(T)) return std::nullopt;
  __builtin_memcpy(&value, bytes.data() + offset, sizeof(T));
  return value;
}
template <typename T>
Bytes bytes_of(const T &value) {
  return std::as_bytes(std::span<const T, 1>(&value, 1));
}
inline Bytes bytes_of(std::string_view text) { return std::as_bytes(std::span(text)); }
inline std::string_view text_of(Bytes bytes) {
  return {reinterpret_cast<const char *>(bytes.data()), bytes.size()};
}

/// One entry of a READDIRPLUS reply; `entry_offset` is where its fuse_entry_out begins in the reply.
struct PlusEntry {
  fuse_entry_out entry;
  std::string_view name;
  size_t entry_offset;
};
/// All entries of a READDIRPLUS reply, with the plain fuse_dirent records appended to `dirents`; false when malformed.
bool read_direntplus(Bytes reply, std::vector<PlusEntry> &entries, std::vector<std::byte> &dirents);
/// The offset cookie of the last record of a READDIR reply's fuse_dirents; nothing when malformed or empty.
std::optional<uint64_t> last_cookie(Bytes dirents);

}  // namespace shortfuse::bridge
