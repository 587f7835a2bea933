// Calls that move bytes from descriptor to descriptor: sendfile, splice, tee, vmsplice, copy_file_range.
#include <fcntl.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include "conformance/case.h"

namespace shortfuse::tests::conformance {
namespace {

void sends(const Place &place) {
  int fd = open("text", O_RDONLY), pair[2];
  socketpair(AF_UNIX, SOCK_STREAM, 0, pair);
  reads(fd, 10);
  said("by the offset", sendfile(pair[1], fd, nullptr, 100));
  say("received", "%s", reads(pair[0], 1000).c_str());
  said("offset", position(fd));
  off_t at = 5000;
  said("at a place", sendfile(pair[1], fd, &at, 50));
  say("place afterwards", "%ld", static_cast<long>(at));
  say("received there", "%s", reads(pair[0], 1000).c_str());
  said("offset untouched", position(fd));
  say("read on", "%s", reads(fd, 10).c_str());
  int copy = dup(fd);
  said("by a duplicate", sendfile(pair[1], copy, nullptr, 30));
  say("received by it", "%s", reads(pair[0], 1000).c_str());
  say("both moved", "%ld %ld", position(fd), position(copy));
  int out = open((place.outside + "/copy").c_str(), O_RDWR | O_CREAT, 0600);
  lseek(fd, 0, SEEK_SET);
  said("all", sendfile(out, fd, nullptr, 1'000'000));
  said("nothing more", sendfile(out, fd, nullptr, 1'000'000));
  say("the copy", "%s", contents(place.outside + "/copy").c_str());
  at = -5;
  said("negative place", sendfile(out, fd, &at, 10));
  said("from a directory", sendfile(out, open("dir", O_RDONLY), nullptr, 10));
  said("to what is read-only", sendfile(fd, out, nullptr, 10));
  int into = open("empty", O_RDWR);
  lseek(fd, 100, SEEK_SET), reads(into, 1);
  said("within the mount", sendfile(into, fd, nullptr, 500));
  say("offsets", "%ld %ld", position(into), position(fd));
  say("there", "%s", contents("empty").c_str());
}

void splices(const Place &) {
  int fd = open("text", O_RDONLY), ends[2], more[2];
  said("pipes", pipe(ends) + pipe(more));
  reads(fd, 10);
  said("into the pipe", splice(fd, nullptr, ends[1], nullptr, 100, 0));
  said("offset", position(fd));
  said("tee", tee(ends[0], more[1], 60, 0));
  say("the copy", "%s", reads(more[0], 1000).c_str());
  say("the pipe", "%s", reads(ends[0], 1000).c_str());
  off64_t at = 400;
  said("from a place", splice(fd, &at, ends[1], nullptr, 70, SPLICE_F_MOVE));
  say("place", "%ld", static_cast<long>(at));
  said("offset untouched", position(fd));
  int out = open("empty", O_RDWR);
  said("out of the pipe", splice(ends[0], nullptr, out, nullptr, 1000, 0));
  said("its offset", position(out));
  say("its contents", "%s", contents("empty").c_str());
  say("read on", "%s", reads(fd, 10).c_str());
  said("file to file", splice(fd, nullptr, out, nullptr, 10, 0));
  said("tee of a file", tee(fd, more[1], 10, 0));
  said("a place in a pipe", splice(ends[0], &at, out, nullptr, 10, 0));
  at = -1;
  said("a negative place", splice(fd, &at, ends[1], nullptr, 10, 0));
  said("the same pipe", splice(ends[0], nullptr, ends[1], nullptr, 10, 0));
  lseek(fd, 9'990, SEEK_SET);
  said("over the end", splice(fd, nullptr, ends[1], nullptr, 100, 0));
  said("at the end", splice(fd, nullptr, ends[1], nullptr, 100, 0));
  char text[] = "from memory";
  iovec part = {text, 11};
  said("vmsplice", vmsplice(ends[1], &part, 1, 0));
  say("all of it", "%s", reads(ends[0], 1000).c_str());
}

void copies(const Place &place) {
  int fd = open("text", O_RDONLY), out = open("empty", O_RDWR);
  reads(fd, 10), reads(out, 10);
  said("by both offsets", copy_file_range(fd, nullptr, out, nullptr, 100, 0));
  say("offsets", "%ld %ld", position(fd), position(out));
  off64_t from = 1000, to = 300;
  said("at places", copy_file_range(fd, &from, out, &to, 50, 0));
  say("places", "%ld %ld", static_cast<long>(from), static_cast<long>(to));
  say("offsets untouched", "%ld %ld", position(fd), position(out));
  from = 2000;
  said("one place", copy_file_range(fd, &from, out, nullptr, 30, 0));
  say("offsets then", "%ld %ld", position(fd), position(out));
  say("the result", "%s", contents("empty").c_str());
  say("again", "%s", contents("empty").c_str());
  say("read on", "%s", reads(fd, 10).c_str());
  said("a flag", copy_file_range(fd, nullptr, out, nullptr, 10, 1));
  said("to what is read-only", copy_file_range(out, nullptr, fd, nullptr, 10, 0));
  said("from a directory", copy_file_range(open("dir", O_RDONLY), nullptr, out, nullptr, 10, 0));
  from = 0, to = 10;
  said("onto itself", copy_file_range(out, &from, out, &to, 100, 0));
  int outside = open((place.outside + "/copy").c_str(), O_RDWR | O_CREAT, 0600);
  said("to another file system", copy_file_range(fd, nullptr, outside, nullptr, 100, 0));
  said("offset there", position(fd));
}

void reads_after_transfers(const Place &) {
  int ends[2];
  said("pipe", pipe(ends));
  for (int round = 0; round < 4; ++round) {
    int fd = open("big", O_RDONLY);
    say("read", "%s", reads(fd, 1000).c_str());
    said("spliced", splice(fd, nullptr, ends[1], nullptr, 1000, 0));
    say("read on", "%s", reads(fd, 1000).c_str());
    say("from the pipe", "%s", reads(ends[0], 5000).c_str());
    said("back", lseek(fd, -500, SEEK_CUR));
    say("and on", "%s", reads(fd, 1000).c_str());
    close(fd);
  }
}

}  // namespace

std::vector<Case> transfer_cases() {
  return {
      {"sendfile", sends, {"read"}},
      {"splice", splices, {"read"}},
      {"copy_file_range",
       copies,
       {"read"},
       {{"to another file system", "FUSE copies only within one mount"}, {"offset there", "likewise"}}},
      {"transfers", reads_after_transfers, {"read"}},
  };
}

}  // namespace shortfuse::tests::conformance
