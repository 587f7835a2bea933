#include "pending.h"

#include <algorithm>

namespace shortfuse::bridge {
namespace {

constexpr size_t kArgumentsKept = 8192;

/// The same text inside the copy; empty when the copy ends before it does.
std::string_view rebase(std::string_view text, Bytes from, Bytes to) {
  if (text.empty()) return {};
  const size_t offset = static_cast<size_t>(text.data() - reinterpret_cast<const char *>(from.data()));
  if (offset + text.size() > to.size()) return {};
  return text_of(to.subspan(offset, text.size()));
}

}  // namespace

void Pending::keep(const Request &original) {
  const size_t kept = std::min(original.arguments.size(), kArgumentsKept);
  arguments.assign(original.arguments.begin(), original.arguments.begin() + static_cast<ptrdiff_t>(kept));
  request = original;
  request.arguments = arguments;
  request.name = rebase(original.name, original.arguments, arguments);
  request.new_name = rebase(original.new_name, original.arguments, arguments);
}

void PendingTable::put(uint64_t unique, Pending pending) {
  Shard &s = shard(unique);
  std::lock_guard guard(s.lock);
  // Moving a vector keeps its storage, so the views inside `request` stay right.
  s.requests.insert_or_assign(unique, std::move(pending));
}

std::optional<Pending> PendingTable::take(uint64_t unique) {
  Shard &s = shard(unique);
  std::lock_guard guard(s.lock);
  auto found = s.requests.find(unique);
  if (found == s.requests.end()) return std::nullopt;
  std::optional<Pending> pending(std::move(found->second));
  s.requests.erase(found);
  return pending;
}

}  // namespace shortfuse::bridge
