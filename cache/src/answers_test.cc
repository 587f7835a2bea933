/* What file systems answered to questions about a file: kept with its contents, and as long as these. */
#include "testing.h"

namespace shortfuse::cache {
namespace {

using namespace testing;

struct AnswersTest : ::testing::Test {
  std::unique_ptr<Cache> cache = make_cache();
  const sf_view &view = cache->view();
  Nid file = cache->learn(10, SF_NID_ROOT, "file", false, Holder::Kernel, cache->moment());

  void SetUp() override { know(100); }
  void know(uint64_t size) { ASSERT_TRUE(cache->fill_attr(cache->moment(), file, attr_of(size), kNever)); }
  bool answer(sf_question question, uint64_t from, uint64_t to) {
    return cache->fill_answer(cache->moment(), file, question, from, to);
  }
  struct Stretch {
    uint64_t from = 0, to = 0;
    bool operator==(const Stretch &) const = default;
  };
  std::optional<Stretch> known(sf_question question) {
    Stretch found;
    const uint64_t cid = cid_of(view, file);
    if (cid == 0 || sf_find_answer(&view, cid, question, &found.from, &found.to) != SF_FIND_OK) return std::nullopt;
    return found;
  }
  std::optional<uint32_t> first_page() {
    unsigned char byte;
    uint32_t copied = 77;
    if (sf_find_data(&view, cid_of(view, file), 0, 0, 1, &byte, &copied) != SF_FIND_OK) return std::nullopt;
    return copied;
  }
};

TEST_F(AnswersTest, EachQuestionHasItsOwn) {
  EXPECT_FALSE(known(SF_ASKED_HOLE));
  ASSERT_TRUE(answer(SF_ASKED_HOLE, 10, 100));
  EXPECT_FALSE(known(SF_ASKED_TERMINAL));
  ASSERT_TRUE(answer(SF_ASKED_TERMINAL, 0, 0));
  EXPECT_EQ(known(SF_ASKED_HOLE), (Stretch{10, 100}));
  EXPECT_EQ(known(SF_ASKED_TERMINAL), (Stretch{0, 0}));
}

TEST_F(AnswersTest, OfOneHoleTheLongerStretch) {
  ASSERT_TRUE(answer(SF_ASKED_HOLE, 10, 100));
  ASSERT_TRUE(answer(SF_ASKED_HOLE, 50, 100));
  EXPECT_EQ(known(SF_ASKED_HOLE), (Stretch{10, 100}));
  ASSERT_TRUE(answer(SF_ASKED_HOLE, 0, 100));
  EXPECT_EQ(known(SF_ASKED_HOLE), (Stretch{0, 100}));
  ASSERT_TRUE(answer(SF_ASKED_HOLE, 5, 8)) << "another hole: the last one counts";
  EXPECT_EQ(known(SF_ASKED_HOLE), (Stretch{5, 8}));
}

TEST_F(AnswersTest, GoWithTheContents) {
  const TouchedNode content[] = {{file, kTouchContent}};
  ASSERT_TRUE(answer(SF_ASKED_HOLE, 0, 100));
  const Moment before = cache->moment();
  cache->end(cache->begin(content, {}));
  know(100);
  EXPECT_FALSE(known(SF_ASKED_HOLE)) << "a change of the contents";
  EXPECT_FALSE(cache->fill_answer(before, file, SF_ASKED_HOLE, 0, 100)) << "asked before it";
  ASSERT_TRUE(answer(SF_ASKED_HOLE, 0, 100));
  know(200);
  EXPECT_FALSE(known(SF_ASKED_HOLE)) << "another size, by somebody else";
  cache->opened_for_write(file);
  know(200);
  EXPECT_FALSE(answer(SF_ASKED_HOLE, 0, 200)) << "it may be written to at this moment";
}

// The last answer before the attributes expire is the next one's too, if they come again as they were.
TEST_F(AnswersTest, StayWhileTheAttributesAreTheSame) {
  ASSERT_TRUE(answer(SF_ASKED_TERMINAL, 0, 0));
  know(100);
  EXPECT_TRUE(known(SF_ASKED_TERMINAL));
}

TEST_F(AnswersTest, AnEmptyFileHasAnEmptyPage) {
  know(0);
  EXPECT_EQ(first_page(), std::nullopt);
  EXPECT_FALSE(cache->fill_data(cache->moment(), file, 0, {}, false)) << "nothing was read, but not to the end";
  EXPECT_FALSE(cache->fill_data(cache->moment(), file, SF_PAGE_BYTES, {}, true));
  EXPECT_EQ(first_page(), std::nullopt);
  ASSERT_TRUE(cache->fill_data(cache->moment(), file, 0, {}, true));
  EXPECT_EQ(first_page(), 0u);
  // It is not taken for the first page of something.
  know(5);
  EXPECT_EQ(first_page(), std::nullopt);
  ASSERT_TRUE(cache->fill_data(cache->moment(), file, 0, bytes_in("12345"), true));
  EXPECT_TRUE(cache->fill_data(cache->moment(), file, 0, {}, true)) << "more is known already";
  EXPECT_EQ(first_page(), 1u);
}

}  // namespace
}  // namespace shortfuse::cache
