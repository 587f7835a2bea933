// Nodes that applications have open without the kernel's knowledge stay alive, and no longer than that.
#include "open_tables.h"

#include <gtest/gtest.h>

#include <memory>

#include "fetch.h"

namespace shortfuse::bridge {
namespace {

constexpr uint64_t kNode = 4711;

struct Opened : testing::Test {
  std::unique_ptr<cache::Cache> cache = std::move(*cache::Cache::create({.budget_bytes = 8ull << 20}));
  std::unique_ptr<sf_session> session = std::make_unique<sf_session>();
  OpenTables tables;
  Fetcher fetcher{*cache, tables};
  cache::Nid nid = 0;

  void SetUp() override {
    cache->learn(FUSE_ROOT_ID, 0, "", true, cache::Holder::Kernel);
    nid = cache->learn(kNode, SF_NID_ROOT, "file", false, cache::Holder::Kernel);
    tables.add(session.get());
  }
  void publish(uint32_t probe) { session->open[sf_open_place(nid) + probe] = nid; }
  void close() {
    for (uint64_t &entry : session->open) entry = 0;
  }
  bool has_attributes() {
    sf_moment now{};
    sf_attr_view attr;
    return sf_find_attr(&cache->view(), nid, &now, &attr) == SF_FIND_OK;
  }
  /// How many references the file system was told to forget since the last call.
  uint64_t told_to_forget() {
    uint64_t count = 0;
    Fetcher::Message message;
    while (fetcher.next(message, false)) {
      auto header = read_struct<fuse_in_header>(message.bytes);
      if (header->opcode == FUSE_FORGET && header->nodeid == kNode)
        count += read_struct<fuse_forget_in>(message.bytes, sizeof(*header))->nlookup;
    }
    return count;
  }
};

TEST_F(Opened, AnEntryIsFoundWhereverItMayStand) {
  EXPECT_FALSE(tables.has(nid));
  for (uint32_t probe = 0; probe < SF_OPEN_PROBE; probe++) {
    publish(probe);
    EXPECT_TRUE(tables.has(nid)) << probe;
    close();
    EXPECT_FALSE(tables.has(nid)) << probe;
  }
  publish(0);
  tables.remove(session.get());
  EXPECT_FALSE(tables.has(nid));
}

TEST_F(Opened, TheLastReferenceIsKeptWhileItIsOpen) {
  publish(3);
  EXPECT_EQ(fetcher.forgotten(kNode, 1), 0u);
  EXPECT_EQ(cache->nodeid_of(nid), kNode);
  fetcher.tidy();
  EXPECT_EQ(told_to_forget(), 0u);
  close();
  fetcher.tidy();
  EXPECT_EQ(told_to_forget(), 1u);
  EXPECT_EQ(cache->nodeid_of(nid), 0u);
}

TEST_F(Opened, SoAreTheDirectoriesThatLeadThere) {
  const cache::Nid outer = cache->learn(10, SF_NID_ROOT, "outer", true, cache::Holder::Kernel);
  const cache::Nid inner = cache->learn(11, outer, "inner", true, cache::Holder::Kernel);
  const cache::Nid beside = cache->learn(12, outer, "inn", true, cache::Holder::Kernel);
  cache->learn(kNode, inner, "file", false, cache::Holder::Bridge);
  publish(0);
  cache->forget(kNode, 1, cache::Holder::Bridge);
  EXPECT_EQ(fetcher.forgotten(kNode, 1), 0u);
  EXPECT_EQ(fetcher.forgotten(12, 1), 1u);
  EXPECT_EQ(fetcher.forgotten(11, 1), 0u);
  EXPECT_EQ(fetcher.forgotten(10, 1), 0u);
  EXPECT_EQ(cache->path_of(nid), "outer/inner/file");
  EXPECT_EQ(cache->nodeid_of(beside), 0u);
  close();
  for (int level = 0; level < 3; level++) fetcher.tidy();
  EXPECT_EQ(told_to_forget(), 1u);
  EXPECT_EQ(cache->nodeid_of(inner), 0u);
  EXPECT_EQ(cache->nodeid_of(outer), 0u);
}

TEST_F(Opened, OnlyTheLastReferenceIs) {
  cache->learn(kNode, SF_NID_ROOT, "file", false, cache::Holder::Kernel);
  publish(0);
  EXPECT_EQ(fetcher.forgotten(kNode, 1), 1u);
  EXPECT_EQ(fetcher.forgotten(kNode, 1), 0u);
  close();
  // Looked up again meanwhile: what was kept is given back, the node lives on.
  cache->learn(kNode, SF_NID_ROOT, "file", false, cache::Holder::Kernel);
  fetcher.tidy();
  EXPECT_EQ(told_to_forget(), 1u);
  EXPECT_EQ(cache->nodeid_of(nid), kNode);
  EXPECT_EQ(fetcher.forgotten(kNode, 1), 1u);
  EXPECT_EQ(cache->nodeid_of(nid), 0u);
}

TEST_F(Opened, WhatDiesIsNotServedFromThen) {
  fuse_attr attr{};
  attr.mode = 0100644;
  ASSERT_TRUE(cache->fill_attr(cache->moment(), nid, attr, cache::kNever));
  ASSERT_TRUE(has_attributes());
  // A client that looks after this finds nothing; one that has looked before stands in the table, and is seen.
  EXPECT_EQ(cache->last_references(kNode, 1, cache::Holder::Kernel), nid);
  EXPECT_FALSE(has_attributes());
}

}  // namespace
}  // namespace shortfuse::bridge
