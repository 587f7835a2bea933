// What a policy program can call in an application.
#pragma once
#include "shortfuse/vm/abi.h"

namespace shortfuse::bypass {

/// The table for sf_vm_env; its functions take an Op as their host state.
const sf_host_fn *host_functions();

}  // namespace shortfuse::bypass
