// A program for the whole-process tests: `probe NAME [arguments]` runs one check in this process, status 0 if it holds.
#include "probe.h"

#include <string.h>

#include <initializer_list>
#include <unistd.h>

int main(int argc, char **argv) {
  if (argc < 2) return 2;
  for (const Probe *table : {kRegisterProbes, kSignalProbes, kProcessProbes, kThreadProbes, kCacheProbes})
    for (const Probe *probe = table; probe->name; probe++)
      if (!strcmp(probe->name, argv[1])) return probe->run(argv + 2);
  fprintf(stderr, "no probe named %s\n", argv[1]);
  return 2;
}
