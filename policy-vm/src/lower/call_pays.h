// Which calls cost fuel besides themselves (isa/call_cost.h), so that programs without such calls need not look at it.
#pragma once
#include <algorithm>

#include "isa/host_functions.h"
#include "isa/insn.h"
#include "lower/jit.h"

namespace shortfuse::vm {

/// There is a map in whose keys there is something to be paid for.
inline bool keys_cost(const sf_jit_policy &policy) {
  return std::any_of(policy.maps, policy.maps + policy.map_count, [](const sf_jit_map &map) {
    return map_cost(map.shape, true, false) != 0 || map_cost(map.inner, true, false) != 0;
  });
}

inline bool call_pays(const Insn &in, const sf_jit_policy &policy) {
  if (in.kind == Kind::CallReg || in.src == kCallLocal) return true;
  const auto id = static_cast<uint32_t>(in.imm);
  const HostCost cost = host_cost_of(id);
  return id == SF_HOST_LOOP || id == SF_HOST_FOR_EACH || cost.size || cost.always || cost.value ||
         (cost.key && keys_cost(policy));
}

}  // namespace shortfuse::vm
