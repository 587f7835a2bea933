// What the hook costs: per call that is not ours, per call that is, and per process start. Prints a table; no verdicts.
//
//   hook_bench LIBRARY     interleaves runs with and without LIBRARY preloaded, medians of the rounds
#include <fcntl.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <map>
#include <string>
#include <vector>

extern char **environ;

namespace {

uint64_t now_ns() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

// The median over rounds of the time of one call.
template <typename F>
void measure(const char *name, F call) {
  constexpr int kRounds = 31, kCalls = 20000;
  std::vector<double> rounds;
  for (int round = 0; round < kRounds; round++) {
    uint64_t start = now_ns();
    for (int i = 0; i < kCalls; i++) call();
    rounds.push_back((double)(now_ns() - start) / kCalls);
  }
  std::sort(rounds.begin(), rounds.end());
  printf("%s\t%.1f\n", name, rounds[kRounds / 2]);
}

int inner() {
  struct stat status;
  char byte;
  int fd = open("/dev/null", O_RDONLY);
  measure("getppid (not patched)", [] { getppid(); });
  measure("close(-1)", [] { close(-1); });
  measure("read(/dev/null)", [&] { (void)!read(fd, &byte, 1); });
  measure("lseek(/dev/null)", [&] { lseek(fd, 0, SEEK_CUR); });
  measure("fstat(/dev/null)", [&] { fstat(fd, &status); });
  measure("stat(/)", [&] { stat("/", &status); });
  measure("syscall(getppid)", [] { syscall(SYS_getppid); });
  measure("stat(/fake/1)", [&] { stat("/fake/1", &status); });
  return 0;
}

double start_us(const char *library) {
  std::string preload = std::string("LD_PRELOAD=") + library;
  std::string home = std::string("HOME=") + (getenv("HOME") ? getenv("HOME") : "");
  std::vector<char *> envp = {home.data()};
  if (*library) envp.push_back(preload.data());
  envp.push_back(nullptr);
  char *argv[] = {(char *)"/bin/true", nullptr};
  uint64_t start = now_ns();
  pid_t pid;
  if (posix_spawn(&pid, argv[0], nullptr, nullptr, argv, envp.data())) return 0;
  waitpid(pid, nullptr, 0);
  return (double)(now_ns() - start) / 1000;
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values.empty() ? 0 : values[values.size() / 2];
}

}  // namespace

int main(int argc, char **argv) {
  if (argc > 1 && !strcmp(argv[1], "--inner")) return inner();
  if (argc < 2) {
    fprintf(stderr, "usage: hook_bench LIBRARY\n");
    return 2;
  }
  std::vector<std::string> order;
  std::map<std::string, std::vector<double>> values[2];
  for (int round = 0; round < 10; round++) {
    const bool hooked = round % 2;
    std::string command = (hooked ? std::string("LD_PRELOAD=") + argv[1] + " " : std::string()) + argv[0] + " --inner";
    FILE *pipe = popen(command.c_str(), "r");
    char line[200];
    while (pipe && fgets(line, sizeof line, pipe)) {
      char *tab = strchr(line, '\t');
      if (!tab) continue;
      *tab = 0;
      if (round == 0) order.push_back(line);
      values[hooked][line].push_back(atof(tab + 1));
    }
    if (pipe) pclose(pipe);
  }
  printf("%-26s %10s %10s %10s\n", "per call, ns", "without", "with", "added");
  for (auto &name : order) {
    double without = median(values[0][name]), with = median(values[1][name]);
    printf("%-26s %10.1f %10.1f %+10.1f\n", name.c_str(), without, with, with - without);
  }
  std::vector<double> start[2];
  for (int round = 0; round < 400; round++) {
    start[0].push_back(start_us(""));
    start[1].push_back(start_us(argv[1]));
  }
  printf("%-26s %10.1f %10.1f %+10.1f\n", "start of /bin/true, us", median(start[0]), median(start[1]),
         median(start[1]) - median(start[0]));
  return 0;
}
