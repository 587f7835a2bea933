// Once a call that changes something has returned, no call that starts later returns the older state: with a writer
// that has no hook and a reader that has it, the other way round, and both hooked.
//
// Each subject (coherence/subjects.h) is changed in two ways: in step, where the writer waits for the reader after
// every change, and freely, where both run as fast as they can. The writer announces a number before it begins a change
// and after it has returned; what the reader saw has to lie between what was announced around its look. In step, the
// reader often looks several times, so that the caches fill and hits are among what is compared.
// SHORTFUSE_TEST_SUBJECT=NAME tests one subject alone.
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <memory>

#include "coherence/subjects.h"
#include "support/control.h"
#include "support/harness.h"
#include "support/shared.h"

namespace shortfuse::tests {
namespace {

// Contents are kept only when the last change is 20 ms old, as an older time stamp could not tell another from it. So
// the reader dwells on some states: for this time, and, as a busy machine may let it sleep all that time, for so many
// looks.
constexpr auto kDwell = std::chrono::milliseconds(40);
constexpr unsigned kDwellLooks = 200;
constexpr uint64_t kDwells = 12;  // over all rounds in step

struct Board {
  std::atomic<uint64_t> started{0}, published{0}, looks{0};
  Signal turn;                        // in step: 0 the writer's, 1 the reader's
  std::atomic<uint32_t> stop{0};
  std::atomic<uint32_t> begun{0}, finished{0};
};

uint64_t rounds_in_step(const Subject &subject, uint64_t rounds) { return subject.also_freely() ? rounds / 2 : rounds; }

void announce_and_write(Board &board, Subject &subject, uint64_t seq) {
  board.started.store(seq);
  subject.write(seq);
  board.published.store(seq);
}

/// board directory subject rounds
SF_WORKER(writer) {
  Shared<Board> board(args.at(0));
  std::unique_ptr<Subject> subject(make_subject(args.at(2), args.at(1)));
  uint64_t rounds = std::stoull(args.at(3));
  try {
    for (uint64_t seq = 1; seq <= rounds; ++seq) {
      bool in_step = seq <= rounds_in_step(*subject, rounds);
      if (in_step && !board->turn.await(0, board->stop)) return 3;
      if (board->stop.load() != 0) return 3;
      announce_and_write(*board, *subject, seq);
      if (in_step) board->turn.set(1);
    }
  } catch (...) {
    board->stop.store(1);
    throw;
  }
  board->finished.store(1);
  board->turn.set(1);
  return 0;
}

/// The arguments of the two others; makes the state of number 0.
SF_WORKER(prepare) {
  std::unique_ptr<Subject>(make_subject(args.at(2), args.at(1)))->prepare();
  return 0;
}

/// One look; false when it saw what it must not.
bool look(Board &board, Subject &subject, const std::string &name) {
  uint64_t published = board.published.load();
  Observation seen = subject.read();
  uint64_t started = board.started.load();
  board.looks.fetch_add(1);
  if (seen.fits(published, started)) return true;
  std::fprintf(stderr, "%s: saw %s, when %lu had returned before and %lu had begun\n", name.c_str(),
               seen.text().c_str(), published, started);
  return false;
}

SF_WORKER(reader) {
  Shared<Board> board(args.at(0));
  std::unique_ptr<Subject> subject(make_subject(args.at(2), args.at(1)));
  const uint64_t rounds = rounds_in_step(*subject, std::stoull(args.at(3)));
  const uint64_t between_dwells = std::max<uint64_t>(rounds / kDwells, 1);
  try {
    // Until it is attached, which a busy daemon may put off for longer than a short run lasts.
    for (; board->begun.load() == 0; nap_ms(1)) {
      if (!look(*board, *subject, args.at(2) + " at first")) return 1;
    }
    for (uint64_t seq = 1; seq <= rounds; ++seq) {
      if (!board->turn.await(1, board->stop)) return 3;
      const bool dwells = seq % between_dwells == 0;
      const unsigned looks = dwells ? kDwellLooks : 1 + static_cast<unsigned>(seq % 3);
      const auto until = std::chrono::steady_clock::now() + (dwells ? kDwell : std::chrono::milliseconds(0));
      for (unsigned i = 0; i < looks || std::chrono::steady_clock::now() < until; ++i) {
        if (look(*board, *subject, args.at(2) + " in step")) continue;
        board->stop.store(1);
        return 1;
      }
      board->turn.set(0);
    }
    bool last = false;
    while (!last) {
      last = board->finished.load() != 0 || board->stop.load() != 0;
      if (look(*board, *subject, args.at(2) + " freely")) continue;
      board->stop.store(1);
      return 1;
    }
  } catch (...) {
    board->stop.store(1);
    throw;
  }
  return board->stop.load() != 0 ? 3 : 0;
}

struct Direction {
  const char *name;
  bool writer_hooked, reader_hooked;
  double kernel_timeout_s;
  uint64_t rounds;  ///< over all subjects; in a soak ten times as many
};

class Coherence : public testing::TestWithParam<Direction> {};

TEST_P(Coherence, NoOlderStateAfterTheCallReturned) {
  const Direction &direction = GetParam();
  TempDir temp;
  Mount::Options options;
  options.kernel_timeout_s = direction.kernel_timeout_s;
  Mount mount(temp.dir("source"), temp.dir("mnt"), options);
  uint64_t rounds = scaled(direction.rounds, 10 * direction.rounds) / subject_names().size();
  std::map<std::string, uint64_t> served;
  const char *only = std::getenv("SHORTFUSE_TEST_SUBJECT");
  for (const auto &name : subject_names()) {
    if (only != nullptr && name != only) continue;
    std::string dir = mount.point() + "/" + name;
    ASSERT_EQ(mkdir(dir.c_str(), 0755), 0);
    std::vector<std::string> args = {temp / (name + ".board"), dir, name, std::to_string(rounds)};
    ASSERT_EQ(run(worker("prepare", args, false)).status, 0) << name;
    Spec writer = worker("writer", args, direction.writer_hooked);
    Spec reader = worker("reader", args, direction.reader_hooked);
    reader.report = temp / (name + ".report");
    writer.err = reader.err = temp / (name + ".err");
    Shared<Board> board(args[0]);
    Process reading(reader);
    if (direction.reader_hooked) {
      ASSERT_TRUE(eventually([&] { return is_attached(reading.pid(), mount.daemon().pid()); })) << name;
    }
    board->begun.store(1);
    Process writing(writer);
    auto limit = std::chrono::seconds(scaled(120, 2000));
    int wrote = writing.wait(limit), read = reading.wait(limit);
    ASSERT_TRUE(wrote == 0 && read == 0) << name << ": writer " << wrote << ", reader " << read << "\n"
                                         << read_file(writer.err) << mount.log();
    if (!direction.reader_hooked) continue;
    auto report = Report::read(reader.report);
    for (const char *op : {"stat", "access", "read", "readdir", "readlink", "getxattr", "listxattr"}) {
      served[op] += report.served(op);
    }
  }
  if (direction.reader_hooked && only == nullptr) {
    for (const auto &[op, count] : served)
      EXPECT_GT(count, 20u) << op << " was hardly ever served: this compared nothing";
  }
  mount.unmount();
}

INSTANTIATE_TEST_SUITE_P(All, Coherence,
                         testing::Values(Direction{"HookedReader", false, true, 0, 105'000},
                                         Direction{"HookedReaderLongTimeouts", false, true, 3600, 25'000},
                                         Direction{"HookedWriter", true, false, 3600, 105'000},
                                         Direction{"BothHooked", true, true, 0, 25'000}),
                         [](const auto &direction) { return std::string(direction.param.name); });

}  // namespace
}  // namespace shortfuse::tests
