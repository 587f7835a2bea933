// Drives a fuzz target where libFuzzer is not to be had: runs the files that it is given (or those of a directory),
// then mutations of them for -max_total_time seconds. It takes libFuzzer's options and ignores the others. An input
// that ends the program is left in ./crash-last.
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

namespace {

using Bytes = std::vector<uint8_t>;

Bytes read_file(const std::filesystem::path &path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

void run(const Bytes &input) {
  std::ofstream("crash-last", std::ios::binary)
      .write(reinterpret_cast<const char *>(input.data()), static_cast<std::streamsize>(input.size()));
  LLVMFuzzerTestOneInput(input.data(), input.size());
}

Bytes mutated(Bytes b, std::mt19937_64 &random) {
  for (uint64_t n = 1 + random() % 8; n > 0 && !b.empty(); n--) {
    size_t at = random() % b.size();
    switch (random() % 5) {
      case 0: b[at] ^= static_cast<uint8_t>(1u << random() % 8); break;
      case 1: b[at] = static_cast<uint8_t>(random()); break;
      case 2: b[at] = random() % 2 ? 0x00 : 0xff; break;
      case 3: b.resize(at); break;
      case 4: b.insert(b.begin() + static_cast<ptrdiff_t>(at), 8, static_cast<uint8_t>(random())); break;
    }
  }
  return b;
}

}  // namespace

int main(int argc, char **argv) {
  long seconds = 0;
  std::vector<Bytes> seeds;
  for (int i = 1; i < argc; i++) {
    const std::string arg = argv[i];
    if (arg.rfind("-max_total_time=", 0) == 0) seconds = atol(arg.c_str() + 16);
    if (arg.rfind("-", 0) == 0) continue;
    if (!std::filesystem::is_directory(arg)) seeds.push_back(read_file(arg));
    else for (const auto &entry : std::filesystem::directory_iterator(arg)) seeds.push_back(read_file(entry.path()));
  }
  for (const Bytes &seed : seeds) run(seed);
  std::mt19937_64 random(1);
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(seconds);
  uint64_t runs = 0;
  for (; !seeds.empty() && std::chrono::steady_clock::now() < end; runs++)
    run(mutated(seeds[random() % seeds.size()], random));
  std::filesystem::remove("crash-last");
  printf("%llu runs after %zu seeds\n", static_cast<unsigned long long>(runs), seeds.size());
  return 0;
}
