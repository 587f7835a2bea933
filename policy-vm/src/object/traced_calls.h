// System calls that `shortfuse trace` attaches programs to: the declarations are in vm.h.
#pragma once
#include "shortfuse/trace.h"
#include "shortfuse/vm/vm.h"
