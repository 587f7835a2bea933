// Reads on in what it inherits and looks at a few paths: as a static program, a set-user-ID program, one built with a
// sanitiser. Says what it saw.
//   PROGRAM FD DIRECTORY
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <string>
#include <thread>
#include <vector>

static void say_file(const char *key, int fd) {
  char buffer[11] = "";
  ssize_t got = read(fd, buffer, 10);
  std::string text(buffer, got > 0 ? static_cast<size_t>(got) : 0);
  for (char &c : text) c = c == '\n' ? '.' : c;
  std::printf("%s: %zd '%s' at %ld\n", key, got, text.c_str(), static_cast<long>(lseek(fd, 0, SEEK_CUR)));
}

int main(int argc, char **argv) {
  if (argc < 3) return 2;
  int fd = std::atoi(argv[1]);
  std::string dir = argv[2];
  std::printf("ids: real %d, effective %d\n", static_cast<int>(getuid()), static_cast<int>(geteuid()));
  if (fd >= 0) say_file("inherited", fd);
  for (int look = 0; look < 3; ++look) {
    int own = open((dir + "/text").c_str(), O_RDONLY);
    say_file("own", own);
    close(own);
    struct stat st;
    int seen = stat((dir + "/big").c_str(), &st);
    std::printf("stat: %d %ld\n", seen, static_cast<long>(st.st_size));
    int secret = open((dir + "/secret").c_str(), O_RDONLY);
    std::printf("secret: %s\n", secret >= 0 ? "open" : "closed");
    close(secret);
  }
  std::vector<std::thread> threads;
  unsigned right[4] = {};
  for (unsigned i = 0; i < 4; ++i) {
    threads.emplace_back([&, i] {
      for (int round = 0; round < 50; ++round) {
        std::vector<char> buffer(20'000);
        int own = open((dir + "/text").c_str(), O_RDONLY);
        right[i] += read(own, buffer.data(), buffer.size()) == 10'000;
        close(own);
      }
    });
  }
  for (auto &thread : threads) thread.join();
  std::printf("threads: %u %u %u %u\n", right[0], right[1], right[2], right[3]);
  return 3;
}
