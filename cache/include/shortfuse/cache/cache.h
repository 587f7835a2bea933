/* The daemon's side of the cache: identities, mutations, fills, eviction.
 *
 * The promise it keeps (DESIGN.md 5): once a mutation has been ended here, no reader that starts later finds the older
 * state, and no fill that read the file system before that end gets in. The bridge calls
 *   moment()         when any request arrives            -> carried along, handed to the fills of its reply
 *   begin(touches)   when a mutating request arrives     -> records are gone and fills refused before it returns
 *   end(flux)        when its reply was seen             -> before the reply leaves
 *   fill_*(moment..) when a reply tells something        -> refused when anything it depends on moved since `moment`
 * Thread-safe throughout (one internal mutex; readers never take it). Never fails for lack of memory: it evicts. */
#pragma once
#include <cstdint>
#include <expected>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "shortfuse/cache/layout.h"
#include "shortfuse/cache/reader.h"

namespace shortfuse::cache {

using Nid = uint64_t;
constexpr uint64_t kNever = 0;        ///< a time to live without end
using Moment = uint64_t;              ///< a point on the mutation clock
constexpr Moment kNow = ~0ull;        ///< for learn(): the name is known to be right now

constexpr size_t kPathBytesMax = 128 << 10;  ///< of path_of(): directory by directory one comes deeper than PATH_MAX

struct Options {
  uint64_t budget_bytes = 256ull << 20;  ///< of chunks; at least 4 MiB. The index comes on top (6 to 13 %).
};

/// Who holds a lookup reference on a node: the kernel, or the bridge for its own fetches.
enum class Holder { Kernel, Bridge };

/// What a mutation does to one node.
enum Touch : uint32_t {
  kTouchAttr = 1,      ///< attributes change
  kTouchContent = 2,   ///< data, listing, link target or xattrs change (implies kTouchAttr)
};
struct TouchedNode { Nid nid; uint32_t what; };
/// A name that appears, disappears or changes meaning. The directory's listing and attributes, and the attributes of
/// the child that the name meant so far, are touched with it.
struct TouchedName {
  Nid dir;
  std::string name;
  bool child_content = false;  ///< the child's contents change too (O_TRUNC, a file replaced)
  bool child_exists = true;    ///< false: a creation; a child that the cache does not know cannot be affected
};

/// Whom a mutation concerns beside those that it names.
enum class Reach {
  Named,
  AnyNode,  ///< perhaps every node: the file system shows one file as several and does not say which
};

struct Stats {
  uint64_t budget_bytes, used_bytes, chunks, index_buckets;
  uint64_t records[SF_REC_KINDS];
  uint64_t bytes[SF_REC_KINDS];
  uint64_t fills[SF_REC_KINDS], refused_fills, evictions, mutations, epoch_bumps;
  uint64_t nodes;  ///< identities known
};

class Cache {
 public:
  static std::expected<std::unique_ptr<Cache>, std::string> create(const Options &options);
  ~Cache();
  Cache(const Cache &) = delete;

  // ---- the segment
  sf_segment_header *header();
  int head_fd() const;                     ///< sealed; may be given to clients
  uint64_t head_bytes() const;
  struct Chunk { uint32_t index, generation; int fd; };
  std::vector<Chunk> chunks() const;       ///< descriptors stay owned here
  const sf_view &view() const;             ///< of this process, always fully mapped
  /// Takes the liveness mutex in the header for the calling thread, which must live as long as the cache serves.
  void hold_liveness();

  // ---- identities
  Nid nid_of(uint64_t nodeid) const;       ///< 0: not known
  uint64_t nodeid_of(Nid nid) const;       ///< 0: that life is over
  /// An entry reply named this node: one more reference for `holder`. A node not known begins a new life.
  /// Call it before filling; call forget() if the reply then could not be delivered.
  /// `at`: the moment of the request, so that a reply older than a rename cannot bring the old name back.
  Nid learn(uint64_t nodeid, Nid parent, std::string_view name, bool is_directory, Holder holder,
            Moment at = kNow);
  /// `count` references of `holder` are gone. True when the life has ended by it.
  bool forget(uint64_t nodeid, uint64_t count, Holder holder);
  /// The nid when `count` references of `holder` are the last that hold the node; its attributes are dropped then, so
  /// that nobody begins anything with it. Else 0.
  Nid last_references(uint64_t nodeid, uint64_t count, Holder holder);
  uint64_t bridge_references(uint64_t nodeid) const;
  /// "a/b", "" for the root; nothing when the names on the way are not known. May be longer than PATH_MAX.
  std::optional<std::string> path_of(Nid nid) const;
  /// By all the names of a file that are known, but at most `most`; that learned last first, as path_of() has it.
  std::vector<std::string> paths_of(Nid nid, size_t most) const;
  std::optional<std::string> path_of(Nid dir, std::string_view name) const;
  /// The node that a name means, as far as is known without asking; 0: not known, or nothing has the name.
  Nid child_of(Nid dir, std::string_view name) const;
  /// Every name by which a node was learned and that still holds, for telling the kernel to forget them. Slow; a copy.
  struct KnownName { uint64_t dir_nodeid; std::string name; };
  std::vector<KnownName> known_names() const;
  /// Nothing has this name any more, or a rename has succeeded: the names kept for path_of follow. `at` as in learn().
  void removed(Nid dir, std::string_view name, Moment at = kNow);
  void renamed(Nid from_dir, std::string_view from, Nid to_dir, std::string_view to, bool exchange);

  // ---- mutations
  Moment moment() const;
  /// What begin() touched, children included, for end(). Opaque to callers; give it to end() exactly once.
  struct Flux {
    std::vector<TouchedNode> nodes;
    std::vector<Nid> dirs;
    bool everything = false;
    bool begun = false;
    Moment at = 0;
  };
  /// Makes what is touched unreachable and refuses its fills until end(). A child whose name is not in the cache is
  /// covered by voiding all attributes at once (header.attr_epoch).
  /// With Reach::AnyNode all attributes and contents go, in O(1), and nothing at all is filled until end().
  Flux begin(std::span<const TouchedNode> nodes, std::span<const TouchedName> names, Reach reach = Reach::Named);
  /// Returns the moment for fills from this mutation's own reply: they are accepted unless another mutation of the
  /// same nodes overlapped. A Flux that begin() did not make is ignored.
  Moment end(const Flux &flux);
  /// Everything (a notification we do not understand, a lost reply).
  void drop_everything();
  /// Drops without a mutation: hints of change from outside (notify_inval_*), sf_forget().
  void drop_node(Nid nid);
  void drop_name(Nid dir, std::string_view name);

  // ---- writers: contents are not served between opened_for_write and the matching released_by_writer
  void opened_for_write(Nid nid);
  void released_by_writer(Nid nid);
  bool has_writer(Nid nid) const;
  /// The daemon was asked to read or list the node: its atime may have moved. True if an ATTR record was demoted.
  /// Call it when the request arrives and again before its reply leaves.
  bool atime_moved(Nid nid);

  // ---- fills; false when refused (something moved, too large, no such life). ttl_ns kNever: no end.
  // Contents (data, listing, link, xattr, xlist) are accepted only from requests that arrived after the attributes
  // were filled: size, mtime and ctime are what a change from outside is told by, and contents read before them
  // could be older than they are. Attributes that differ from the last fill's, or that were so young that a change
  // may hide in the same clock tick (and have a time to live), void the contents. A change from outside that leaves
  // all three as they were goes unnoticed.
  bool fill_attr(Moment at, Nid nid, const fuse_attr &attr, uint64_t ttl_ns);
  /// A child that is a directory gets its PARENT record with it.
  bool fill_dentry(Moment at, Nid dir, std::string_view name, Nid child, uint64_t ttl_ns);  ///< child 0: negative
  /// `bytes` at `offset`, which is a multiple of SF_PAGE_BYTES or its head is left out. end_of_file: the file ends
  /// with them. True when at least one page is kept. No bytes at offset 0: an empty page 0 (layout.h).
  bool fill_data(Moment at, Nid nid, uint64_t offset, std::span<const std::byte> bytes, bool end_of_file);
  /// A complete listing: struct sf_dirent entries back to back.
  bool fill_listing(Moment at, Nid nid, std::span<const std::byte> dirents);
  bool fill_link(Moment at, Nid nid, std::string_view target);
  bool fill_xattr(Moment at, Nid nid, std::string_view name, std::span<const std::byte> value, int error);
  bool fill_xlist(Moment at, Nid nid, std::span<const std::byte> names);
  /// Of two answers about the same hole the one that says more is kept.
  bool fill_answer(Moment at, Nid nid, sf_question question, uint64_t from, uint64_t to);
  bool fill_statfs(Moment at, const fuse_kstatfs &statfs, uint64_t ttl_ns);

  // ---- eviction
  /// Recency samples of clients: refs, each checked.
  void touched(std::span<const uint64_t> refs);

  Stats stats() const;

 private:
  Cache();
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// Turns a READDIR reply's fuse_dirent records into sf_dirent records; false when malformed.
bool convert_dirents(std::span<const std::byte> fuse_dirents, std::vector<std::byte> &out);

}  // namespace shortfuse::cache
