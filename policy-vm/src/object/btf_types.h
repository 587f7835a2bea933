// Type information (BTF), read through libbpf after a check of its header: what an object brings along, and our own.
#pragma once
#include <bpf/btf.h>

#include <cstdint>
#include <expected>
#include <memory>
#include <span>
#include <string>

namespace shortfuse::vm {

struct FreeBtf { void operator()(btf *b) const { btf__free(b); } };
using BtfPtr = std::unique_ptr<btf, FreeBtf>;

inline constexpr int kTypeDepthMax = 32;
inline constexpr size_t kBtfBytesMax = 1u << 20;  // of .BTF, and of .BTF.ext

/// Any bytes: the types, or what is wrong with them. Numbers of types and offsets of names may still lead nowhere.
std::expected<BtfPtr, const char *> read_btf(std::span<const unsigned char> bytes);

/// The types of policy.h as this build has them: what objects are fitted to. Never NULL; immutable.
const btf *own_btf();

/// The type behind modifiers and typedefs, and its number; NULL where there is none.
const btf_type *resolve_type(const btf *b, uint32_t id, uint32_t *resolved = nullptr);

/// A string of the type information, cut where it is longer than any name or line that is worth showing.
std::string btf_string(const btf *b, uint32_t offset);

/// A name without its flavour: "node___v2" is "node".
std::string essential_name(const std::string &name);

}  // namespace shortfuse::vm
