#include "map_text.h"

#include <gtest/gtest.h>

namespace shortfuse::cli {
namespace {

using nlohmann::json;

const json kU32 = {{"kind", "int"}, {"bytes", 4}, {"signed", false}};
const json kS16 = {{"kind", "int"}, {"bytes", 2}, {"signed", true}};
const json kChar = {{"kind", "int"}, {"bytes", 1}, {"signed", true}, {"char", true}};
const json kName = {{"kind", "array"}, {"count", 4}, {"of", kChar}};
const json kPair = {{"kind", "struct"}, {"bytes", 8},
                    {"fields", {{{"name", "a"}, {"offset", 0}, {"type", kU32}},
                                {{"name", "b"}, {"offset", 4}, {"type", kS16}}}}};
const json kOuter = {{"kind", "struct"}, {"bytes", 12},
                     {"fields", {{{"name", "in"}, {"offset", 0}, {"type", kPair}},
                                 {{"name", "name"}, {"offset", 8}, {"type", kName}}}}};

std::string back_and_forth(const MapField &field, const std::string &text) {
  const auto bytes = parsed(field, text);
  return bytes ? shown(field, *bytes) : "error: " + bytes.error();
}

TEST(MapText, Numbers) {
  EXPECT_EQ("42", back_and_forth({4, kU32}, "42"));
  EXPECT_EQ("255", back_and_forth({4, kU32}, "0xff"));
  EXPECT_EQ("-32768", back_and_forth({2, kS16}, "-32768"));
  EXPECT_EQ("hex:2a00000000000000", back_and_forth({8, json()}, "42")) << "no type is known";
  EXPECT_EQ("error: \"4294967296\" does not fit into 4 bytes", back_and_forth({4, kU32}, "4294967296"));
  EXPECT_EQ("error: \"-1\" does not fit into 4 bytes", back_and_forth({4, kU32}, "-1"));
  EXPECT_EQ("error: \"32768\" does not fit into 2 bytes", back_and_forth({2, kS16}, "32768"));
  EXPECT_EQ("error: \"x\" is not a number", back_and_forth({4, kU32}, "x"));
  EXPECT_EQ("error: \"\" is not a number", back_and_forth({4, kU32}, ""));
  EXPECT_EQ("error: only bytes are known of it: hex:01 02 ...", back_and_forth({3, json()}, "1"));
}

TEST(MapText, Structures) {
  EXPECT_EQ("{a=7, b=-1}", back_and_forth({8, kPair}, "b=-1,a=7"));
  EXPECT_EQ("{a=0, b=3}", back_and_forth({8, kPair}, "b=3"));
  EXPECT_EQ("{in={a=1, b=2}, name=\"abc\"}", back_and_forth({12, kOuter}, "in.a=1,in.b=2,name=abc"));
  EXPECT_EQ("error: there is no field \"c\"; there are: a, b", back_and_forth({8, kPair}, "c=3"));
  EXPECT_EQ("error: \"3\" is not FIELD=VALUE", back_and_forth({8, kPair}, "3"));
  EXPECT_EQ("error: b: \"99999\" does not fit into 2 bytes", back_and_forth({8, kPair}, "b=99999"));
  EXPECT_EQ("hex:0100000000000000ffff", shown({10, kPair}, std::string("\1\0\0\0\0\0\0\0\xff\xff", 10)))
      << "a size that is not the type's";
}

TEST(MapText, TextAndArrays) {
  EXPECT_EQ("\"abcd\"", back_and_forth({4, kName}, "abcd"));
  EXPECT_EQ("\"a\"", back_and_forth({4, kName}, "a"));
  EXPECT_EQ("error: \"abcde\" is longer than 4 characters", back_and_forth({4, kName}, "abcde"));
  EXPECT_EQ("[1, 0, 2, 0]", shown({4, kName}, std::string("\1\0\2\0", 4)));
  const json numbers = {{"kind", "array"}, {"count", 2}, {"of", kU32}};
  EXPECT_EQ("[1, 2]", back_and_forth({8, numbers}, "1,2"));
  EXPECT_EQ("error: 2 numbers are needed, with commas between", back_and_forth({8, numbers}, "1"));
}

TEST(MapText, PrefixesAndBytes) {
  EXPECT_EQ("10.1.0.0/16", back_and_forth({8, json(), true}, "10.1.0.0/16"));
  EXPECT_EQ("10.1.2.3/32", back_and_forth({8, json(), true}, "10.1.2.3"));
  EXPECT_EQ("2001:db8::/32", back_and_forth({20, json(), true}, "2001:db8::/32"));
  EXPECT_EQ("error: \"10.1.0.0/33\": 0 to 32 bits", back_and_forth({8, json(), true}, "10.1.0.0/33"));
  EXPECT_EQ("error: \"10.1\" is not ADDRESS/BITS", back_and_forth({8, json(), true}, "10.1"));
  EXPECT_EQ("258", back_and_forth({4, kU32}, "hex:02 01 00 00"));
  EXPECT_EQ("error: \"hex:01\" has 1 bytes, not 4", back_and_forth({4, kU32}, "hex:01"));
  EXPECT_EQ("error: \"0g\" is not in hexadecimal", back_and_forth({1, json()}, "hex:0g"));
  EXPECT_EQ("error: \"012\": two digits make a byte", back_and_forth({1, json()}, "hex:012"));
}

TEST(MapText, Json) {
  EXPECT_EQ(R"({"a":1,"b":-1})", as_json({8, kPair}, std::string("\1\0\0\0\xff\xff\0\0", 8)).dump());
  EXPECT_EQ(R"("hex:0102")", as_json({2, json()}, "\1\2").dump());
}

}  // namespace
}  // namespace shortfuse::cli
