// Policy images: mapping what a daemon published, and letting go of it when nobody runs it any more.
#pragma once
#include "mount.h"
#include "packets.h"

namespace shortfuse::bypass {

/// Maps image and maps from descriptors [first, first + 1 + maps) of the room. Null when anything is not as it must be.
/// `serial`: of the session, to which maps of this process alone belong.
const Policy *map_policy(PacketRoom &room, uint32_t first, uint32_t maps, uint32_t epoch, uint32_t serial);
void unmap_policy(const Policy *policy);

/// REQUIRES: Process.attach_latch. Kept until release_retired() finds nobody inside; a full list keeps it for good.
void retire_policy(const Policy *policy);
void release_retired();

}  // namespace shortfuse::bypass
