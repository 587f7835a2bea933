/* An application whose decisions are eBPF programs: verified, compiled to machine code, replaceable. */
#include <inttypes.h>
#include <shortfuse/vm/engine.h>
#include <stdio.h>

#include "request.h"

/* What plug-ins may call. Its arguments were checked when the plug-in was loaded. */
static uint64_t report(uint64_t what, uint64_t user, uint64_t c, uint64_t d, uint64_t e, void *state) {
  (void)c, (void)d, (void)e;
  printf("  user %" PRIu64 " is %s\n", user, (const char *)(uintptr_t)what);
  return (uint64_t)++*(int *)state;
}

int main(int argc, char **argv) {
  struct sf_engine_options options = {.size = sizeof options, .context_bytes = sizeof(struct request)};
  sf_engine *engine = sf_engine_create(&options);
  int reports = 0;

  sf_engine_add_function(engine, "report(string, scalar)", report);
  sf_engine_set_state(engine, &reports);
  if (sf_engine_load_file(engine, argc > 1 ? argv[1] : "limit.bpf.o") != 0) {
    fprintf(stderr, "%s\n", sf_engine_error(engine));
    return 1;
  }
  const int grant = sf_engine_find_program(engine, "request"), used = sf_engine_find_map(engine, "used");

  const struct request requests[] = {{7, 1, 600000}, {8, 1, 900000}, {7, 2, 300000}, {7, 1, 200000}};
  for (size_t i = 0; i < sizeof requests / sizeof requests[0]; i++) {
    uint64_t granted = 0;
    sf_engine_run(engine, grant, &requests[i], &granted);
    printf("user %u wants %llu, gets %" PRIu64 "\n", requests[i].user, requests[i].bytes, granted);
  }

  uint32_t user;
  uint64_t bytes;
  for (int at = sf_engine_map_next(engine, used, NULL, &user); at == 0;
       at = sf_engine_map_next(engine, used, &user, &user)) {
    if (sf_engine_map_lookup(engine, used, &user, &bytes) == 0) printf("user %u has had %" PRIu64 "\n", user, bytes);
  }
  sf_engine_destroy(engine);
  return 0;
}
