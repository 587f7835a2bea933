// A probe that writes a cache file with a right checksum and a wrong window: what a newer libc under an old name would
// look like.
#include <string.h>

#include <filesystem>
#include <fstream>
#include <string>

#include "../src/site_cache.h"
#include "probe.h"

#include <unistd.h>

namespace {

int forge_cache(char **arguments) {
  namespace fs = std::filesystem;
  sf_cache_place place = {};
  place.uid = geteuid();
  strcpy(place.user, arguments[0]);
  sf_auxv auxv;
  CHECK(sf_auxv_read(environ, &auxv) == 0);
  sf_module modules[SF_MODULES_MAX];
  int count = sf_modules_find(&auxv, modules);
  CHECK(count >= 2);
  static sf_site sites[SF_SITES_MAX];
  for (int i = 0; i < count; i++) {
    int found = sf_cache_load(&place, &modules[i], sites);
    // The place is named in another way than the library knows it, so read the file here.
    found = -1;
    fs::path path;
    for (auto &entry : fs::directory_iterator(arguments[0])) {
      std::ifstream file(entry.path(), std::ios::binary);
      std::string bytes((std::istreambuf_iterator<char>(file)), {});
      if (memcmp(bytes.data() + 32, modules[i].build_id, modules[i].build_id_bytes)) continue;
      found = (int)((bytes.size() - 72) / sizeof(sf_site));
      memcpy(sites, bytes.data() + 72, found * sizeof(sf_site));
    }
    CHECK(found > 10);
    for (int s = 0; s < found; s++) {
      if (sites[s].form == SF_SITE_NONE) continue;
      sites[s].hash ^= 1;  // other bytes
    }
    sf_cache_store(&place, &modules[i], sites, found);
  }
  return 0;
}

}  // namespace

const Probe kCacheProbes[] = {
    {"forge-cache", forge_cache},
    {nullptr, nullptr},
};
