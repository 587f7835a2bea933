// The policies in examples/policies: they load, they are lowered completely, and they do what their first lines say.
#include <errno.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <set>

#include "testing/testing.h"

namespace shortfuse::vm {
namespace {

using namespace testing;

Policy load(const std::string &name) {
  auto policy = load_policy({std::string(SF_POLICIES) + "/" + name + ".bpf.o"});
  EXPECT_TRUE(policy) << policy.error().str();
  return policy.value_or(Policy{});
}

std::set<std::string> sections(const Policy &policy, const std::string &side) {
  std::set<std::string> out;
  for (const Policy::Program &p : policy.programs) {
    if (p.info.section.find(side + "/") == 0) out.insert(p.info.section.substr(side.size() + 1));
  }
  return out;
}

// Runs the programs of a section in machine code and in the interpreter, which must agree.
struct Outcome {
  int verdict;
  std::vector<std::vector<uint64_t>> calls;
};

class Loaded {
 public:
  explicit Loaded(const std::string &name) : policy(load(name)), image_(Image::publish(policy, Lowering::Required)) {
    EXPECT_TRUE(image_) << image_.error().str();
    EXPECT_EQ(sf_image_check(image_->get(), image_->bytes()), 0);
  }
  template <typename Ctx>
  Outcome run(const std::string &section, Ctx ctx, const std::string &path = "",
              std::vector<unsigned char> args = {}) {
    return run_with(host, section, ctx, path, args);
  }
  template <typename Ctx>
  Outcome run_with(Host &with, const std::string &section, Ctx ctx, const std::string &path,
                   std::vector<unsigned char> args) {
    const unsigned slot = slot_of_section(section).value();
    Host other(policy.maps);
    Outcome results[2];
    for (int i = 0; i < 2; i++) {
      Host &h = i ? with : other;
      h.path = path;
      h.arguments = args;
      h.calls.clear();
      results[i].verdict = sf_policy_run(image_->get(), slot, &ctx, h.env());
      results[i].calls = h.calls;
    }
    EXPECT_EQ(results[0].verdict, results[1].verdict);
    return results[1];
  }
  Policy policy;
  Host host{policy.maps};

 private:
  std::expected<Image, Refusal> image_;
};

sf_fuse_ctx request(uint32_t origin = 0) {
  sf_fuse_ctx ctx{};
  ctx.size = sizeof ctx;
  ctx.node = 7;
  ctx.origin = origin;
  return ctx;
}

sf_fuse_exit_ctx reply(uint32_t origin = 0, uint64_t offset = 0, uint32_t bytes = 0) {
  sf_fuse_exit_ctx ctx{};
  ctx.req = request(origin);
  ctx.req.offset = offset;
  ctx.reply_bytes = bytes;
  return ctx;
}

TEST(Policies, PassallServesNothing) {
  Loaded p("passall");
  EXPECT_EQ(sections(p.policy, "syscall").size(), 9u);
  for (const Policy::Program &program : p.policy.programs) {
    Outcome o = p.run(program.info.section, reply());
    EXPECT_EQ(o.verdict, SF_PASS);
    EXPECT_TRUE(o.calls.empty());
  }
}

using Calls = std::vector<std::vector<uint64_t>>;

TEST(Policies, MetacacheServesAndKeepsMetadata) {
  Loaded p("metacache");
  EXPECT_FALSE(sections(p.policy, "syscall").contains("read"));
  EXPECT_FALSE(sections(p.policy, "fuse_exit").contains("read"));
  EXPECT_EQ(p.run("syscall/stat", sf_syscall_ctx{}).calls, Calls{{SF_HOST_SERVE_ATTR}});
  EXPECT_EQ(p.run("syscall/stat", sf_syscall_ctx{}).verdict, SF_SERVED);
  EXPECT_EQ(p.run("syscall/readdir", sf_syscall_ctx{}).calls, Calls{{SF_HOST_SERVE_LISTING}});
  EXPECT_EQ(p.run("fuse/lookup", request()).calls, Calls{{SF_HOST_SERVE_ENTRY}});
  EXPECT_TRUE(p.run("fuse/lookup", request(1)).calls.empty());  // the bridge's own
  for (const std::string &op : sections(p.policy, "fuse_exit")) {
    uint64_t ttl = op == "statfs" ? 1'000'000'000 : 10'000'000'000;
    uint64_t negative = op == "statfs" ? SF_DROP : 10'000'000'000;
    EXPECT_EQ(p.run("fuse_exit/" + op, reply()).calls, (Calls{{SF_HOST_KEEP, ttl, negative}})) << op;
  }
}

TEST(Policies, DatacacheReadsAhead) {
  Loaded p("datacache");
  constexpr uint64_t window = 128 * 1024;
  EXPECT_EQ(p.run("syscall/read", sf_syscall_ctx{}).calls, Calls{{SF_HOST_SERVE_DATA}});
  EXPECT_EQ(p.run("fuse_exit/open", reply()).calls, (Calls{{SF_HOST_PREFETCH, 0, window}}));
  EXPECT_TRUE(p.run("fuse_exit/open", reply(1)).calls.empty());
  // The host's hash finds odd sums nowhere: node 7 is new, so nothing is fetched and its end is remembered.
  Outcome o = p.run("fuse_exit/read", reply(0, 4096, 4096));
  ASSERT_EQ(o.calls.size(), 3u);
  EXPECT_EQ(o.calls[0][0], uint64_t(SF_HOST_KEEP));
  EXPECT_EQ(o.calls[2][0], uint64_t(SF_HOST_MAP_UPDATE));
  uint64_t end = 0;
  memcpy(&end, p.host.value(0), 8);
  EXPECT_EQ(end, 8192u);
  // The next read continues there (node 8 is found by the host's hash).
  sf_fuse_exit_ctx next = reply(0, 8192, 100);
  next.req.node = 8;
  const unsigned slot = slot_of_section("fuse_exit/read").value();
  auto image = Image::publish(p.policy, Lowering::Required);
  p.host.calls.clear();
  sf_policy_run(image->get(), slot, &next, p.host.env());
  EXPECT_EQ(p.host.calls.at(2), (std::vector<uint64_t>{SF_HOST_PREFETCH, 8292, window}));
  EXPECT_EQ(p.run("fuse_exit/read", reply(1, 8292, 100)).calls.size(), 1u);  // the bridge's own read: kept, no more
}

std::vector<unsigned char> rename_arguments(const std::string &from, const std::string &to) {
  std::vector<unsigned char> args(8);
  args.insert(args.end(), from.c_str(), from.c_str() + from.size() + 1);
  args.insert(args.end(), to.c_str(), to.c_str() + to.size() + 1);
  return args;
}

TEST(Policies, DenyDeniesTheListAndBelow) {
  Loaded p("deny");
  struct { const char *path; int verdict;
  } const cases[] = {
      {"", 0},
      {"public", 0},
      {"secret", -EACCES},
      {"secret/a", -EACCES},
      {"secret/a/b", -EACCES},
      {"secrets", 0},
      {"secre", 0},
      {"a/secret", 0},
      {"private", 0},
      {"private/key.pem", -EACCES},
      {"private/key.pem2", 0},
      {"private/key.pe", 0},
      {"private/other", 0},
      {"private/key.pem/x", -EACCES},
      {"SECRET", 0},
  };
  for (auto &[path, verdict] : cases) {
    for (const char *section :
         {"fuse/lookup", "fuse/open", "fuse/getattr", "fuse/create", "fuse/readdir", "fuse/unlink", "fuse/readlink"}) {
      EXPECT_EQ(p.run(section, request(), path).verdict, verdict) << section << " " << path;
    }
    EXPECT_EQ(p.run("fuse/lookup", request(1), path).verdict, verdict) << "the bridge's own must not fill the cache";
  }
  EXPECT_EQ(p.run("fuse/lookup", request(), std::string(1000, 'x')).verdict, -EACCES);
  EXPECT_EQ(p.run("fuse/lookup", request(), std::string(300, 'x')).verdict, 0);
  EXPECT_EQ(p.run("fuse/read", request(), "?").verdict, 0);        // deleted, still open
  EXPECT_EQ(p.run("fuse/lookup", request(), "?").verdict, -EACCES);
  EXPECT_EQ(p.run("fuse/link", request(), "public").verdict, -EPERM);
}

TEST(Policies, DenyCannotBeRenamedAway) {
  Loaded p("deny");
  struct { const char *from, *to; int verdict; } const cases[] = {
    {"public", "elsewhere", 0}, {"secret", "x", -EACCES}, {"secret/a", "x", -EACCES}, {"private", "x", -EACCES},
    {"private/key.pem", "x", -EACCES}, {"private/other", "x", 0}, {"priv", "x", 0}, {"x", "secret", -EACCES},
    {"x", "key.pem", -EACCES}, {"x", "private", -EACCES}, {"x", "mysecret", 0}, {"x", "secrets", 0}, {"x", "y", 0},
    {"key.pem", "x", 0}, {"x", "", 0},
  };
  for (auto &[from, to, verdict] : cases) {
    sf_fuse_ctx ctx = request();
    std::string last = from;
    auto args = rename_arguments(last.substr(last.find('/') + 1), to);
    ctx.arg_bytes = static_cast<uint32_t>(args.size());
    EXPECT_EQ(p.run("fuse/rename", ctx, from, args).verdict, verdict) << from << " -> " << to;
    EXPECT_EQ(p.run("fuse/rename2", ctx, from, args).verdict, verdict) << from << " -> " << to;
  }
}

// Long chains and every operation of every example: bounded, checked access by access.
TEST(Policies, TouchOnlyTheirMemory) {
  for (const char *name : {"passall", "metacache", "datacache", "deny"}) {
    Policy policy = load(name);
    for (const char *path : {"", "?", "secret", "private", "private/key.pem", "a/b/c"}) {
      Host host(policy.maps);
      host.path = path;
      host.arguments.assign(200, 'a');
      for (const Policy::Program &p : policy.programs) {
        alignas(8) unsigned char ctx[sizeof(sf_fuse_exit_ctx)] = {};
        uint64_t r0 = 0;
        EXPECT_EQ(host.checked_run(p.insns, p.info.slot, ctx, &r0), "") << name << " " << p.info.section;
      }
    }
  }
}

TEST(Policies, CanBeReadAsText) {
  for (const char *name : {"metacache", "datacache", "passall", "deny"}) {
    for (const Policy::Program &program : load(name).programs) {
      const auto lines = disassemble(program);
      ASSERT_FALSE(lines.empty());
      EXPECT_EQ(lines.front().pc, 0u);
      bool exits = false;
      for (const auto &line : lines) {
        exits = exits || line.text == "exit";
        EXPECT_EQ(line.text.find("not an instruction"), std::string::npos) << name << " " << program.info.section;
        EXPECT_EQ(line.text.find('?'), std::string::npos) << line.text;
      }
      EXPECT_TRUE(exits);
    }
  }
  const Policy metacache = load("metacache");
  auto stat = std::find_if(metacache.programs.begin(), metacache.programs.end(),
                           [](const auto &p) { return p.info.section == "syscall/stat"; });
  ASSERT_NE(stat, metacache.programs.end());
  const auto lines = disassemble(*stat);
  EXPECT_NE(std::find_if(lines.begin(), lines.end(), [](const auto &l) { return l.text == "call sf_serve_attr"; }),
            lines.end());
}

}  // namespace
}  // namespace shortfuse::vm
