// Telling the bridge what a miss would have liked to find.
#pragma once
#include "mount.h"
#include "walk.h"

namespace shortfuse::bypass {

/// After the real call: leaves the hint unless the reply has filled the cache meanwhile, or the same hint was left a
/// moment ago. Never blocks; a full ring loses it. REQUIRES: inside the mount.
void leave_hint(Mount *m, const Wish &wish);

}  // namespace shortfuse::bypass
