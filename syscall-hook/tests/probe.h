// What the probe programs share: a check that says where it failed, and the table of checks.
//
// A probe runs with and without the hook in front of it and expects the same either way, except where it says
// hooked(): then the bypass of the tests answers names under /fake/.
#pragma once

#include <stdio.h>
#include <stdlib.h>

#include <dlfcn.h>

#include "shortfuse/hook/hook.h"

#define CHECK(condition)                                                                          \
  do {                                                                                            \
    if (!(condition)) {                                                                           \
      fprintf(stderr, "%s:%d: %s does not hold (errno %m)\n", __FILE__, __LINE__, #condition);     \
      _exit(99);                                                                                  \
    }                                                                                             \
  } while (0)

inline const sf_hook_state *hook_state() {
  auto ask = (const sf_hook_state *(*)())dlsym(RTLD_DEFAULT, "shortfuse_hook_state");
  return ask ? ask() : nullptr;
}
inline bool hooked() { return hook_state() && hook_state()->active; }

struct Probe {
  const char *name;
  int (*run)(char **arguments);
};
// Each file of probes has one table, ended by a null name.
extern const Probe kRegisterProbes[], kSignalProbes[], kProcessProbes[], kThreadProbes[],
    kCacheProbes[];
