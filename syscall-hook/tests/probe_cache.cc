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
  sf_cache_place_find(environ, &place);
  CHECK(fs::equivalent(place.user, arguments[0]));
  sf_auxv auxv;
  CHECK(sf_auxv_read(environ, &auxv) == 0);
  sf_module modules[SF_MODULES_MAX];
  int count = sf_modules_find(&auxv, modules);
  CHECK(count >= 2);
  static sf_site sites[SF_SITES_MAX];
  for (int i = 0; i < count; i++) {
    // The place is named in another way than the library knows it, so read the file here.
    int found = -1;
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
      if (arguments[1][0] == 'h') sites[s].hash ^= 1;  // other bytes
    }
    // The same window twice.
    if (arguments[1][0] == 'o' && found < SF_SITES_MAX) {
      memmove(&sites[1], &sites[0], found * sizeof(sf_site));
      int s = 1;
      while (sites[s].form == SF_SITE_NONE || sites[s].nr != 0) s++;  // read(), which is patched
      sites[s - 1] = sites[s];
      found++;
    }
    sf_cache_store(&place, &modules[i], sites, found);
  }
  return 0;
}

int no_writable_code(char **) {
  std::ifstream maps("/proc/self/maps");
  int lines = 0, executable = 0;
  for (std::string line; std::getline(maps, line); lines++) {
    const std::string rights = line.substr(line.find(' ') + 1, 4);
    CHECK(rights.find('w') == std::string::npos || rights.find('x') == std::string::npos);
    executable += rights.find('x') != std::string::npos;
  }
  CHECK(lines > 10 && executable >= 4);
  return 0;
}

}  // namespace

const Probe kCacheProbes[] = {
    {"no-writable-code", no_writable_code},
    {"forge-cache", forge_cache},
    {nullptr, nullptr},
};
