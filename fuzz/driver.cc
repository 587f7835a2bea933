// Drives a fuzz target where libFuzzer is not to be had: runs the files that it is given (or those of a directory),
// then mutations of them for -max_total_time seconds or until -runs are made, by -seed. It takes libFuzzer's options
// and ignores the others. An input that ends the program is left in crash-last behind -artifact_prefix.
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

struct Options {
  long seconds = 0;
  unsigned long long runs = 0, seed = 1;  // no runs: no limit but the time
  std::string artifact_prefix = "./";
  std::vector<Bytes> seeds;

  std::string artifact() const { return artifact_prefix + "crash-last"; }
};

Options parse(int argc, char **argv) {
  Options o;
  for (int i = 1; i < argc; i++) {
    const std::string arg = argv[i], value = arg.substr(arg.find('=') + 1);
    if (arg.starts_with("-max_total_time=")) o.seconds = atol(value.c_str());
    if (arg.starts_with("-runs=")) o.runs = strtoull(value.c_str(), nullptr, 10);
    if (arg.starts_with("-seed=")) o.seed = strtoull(value.c_str(), nullptr, 10);
    if (arg.starts_with("-artifact_prefix=")) o.artifact_prefix = value;
    if (arg.starts_with("-seed_inputs=@")) {  // a file with names and commas between them
      std::ifstream list(value.substr(1));
      for (std::string file; std::getline(list, file, ',');)
        o.seeds.push_back(read_file(file.substr(0, file.find('\n'))));
    }
    if (arg.starts_with("-")) continue;
    if (!std::filesystem::is_directory(arg)) o.seeds.push_back(read_file(arg));
    else
      for (const auto &entry : std::filesystem::directory_iterator(arg)) o.seeds.push_back(read_file(entry.path()));
  }
  return o;
}

void run(const Bytes &input, const std::string &artifact) {
  std::ofstream(artifact, std::ios::binary)
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
  const Options o = parse(argc, argv);
  for (const Bytes &seed : o.seeds) run(seed, o.artifact());
  std::mt19937_64 random(o.seed);
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(o.seconds);
  const auto goes_on = [&](uint64_t runs) {
    if (o.runs != 0 && runs >= o.runs) return false;
    return o.seconds != 0 ? std::chrono::steady_clock::now() < end : o.runs != 0;
  };
  uint64_t runs = 0;
  for (; !o.seeds.empty() && goes_on(runs); runs++)
    run(mutated(o.seeds[random() % o.seeds.size()], random), o.artifact());
  std::filesystem::remove(o.artifact());
  printf("%llu runs after %zu seeds\n", static_cast<unsigned long long>(runs), o.seeds.size());
  return 0;
}
