#include "lib/spore/json.h"

#include <cstring>
#include <limits>
#include <string>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "lib/base/error.h"

namespace mycelium::spore {
namespace {

using ::testing::HasSubstr;

std::string Canonical(absl::string_view text) {
  const auto value = ParseJson(text);
  return value.ok() ? Canonicalize(*value) : ReasonOf(value.status());
}

double FromBits(uint64_t bits) {
  double value = 0;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

TEST(JsonTest, ReadsEveryType) {
  const auto value = ParseJson(
      R"( { "s" : "x", "n" : -12.5e1, "t":true,"f":false,"z":null,
            "a":[1,[]], "o":{} } )");

  ASSERT_TRUE(value.ok()) << value.status();
  EXPECT_EQ(value->Find("s")->string(), "x");
  EXPECT_EQ(value->Find("n")->number(), -125);
  EXPECT_TRUE(value->Find("t")->boolean());
  EXPECT_FALSE(value->Find("f")->boolean());
  EXPECT_TRUE(value->Find("z")->is_null());
  EXPECT_EQ(value->Find("a")->array().size(), 2u);
  EXPECT_TRUE(value->Find("o")->is_object());
  EXPECT_EQ(value->Find("absent"), nullptr);
  EXPECT_EQ(value->Find("s")->Find("x"), nullptr);
}

TEST(JsonTest, RefusesWhatIsNotJson) {
  for (const absl::string_view text : {"",
                                       " ",
                                       "{",
                                       "}",
                                       "[",
                                       "]",
                                       "[1,]",
                                       "[,1]",
                                       "[1 2]",
                                       "{\"a\"}",
                                       "{\"a\":}",
                                       "{\"a\":1,}",
                                       "{,}",
                                       "{a:1}",
                                       "{'a':1}",
                                       "{1:2}",
                                       "nul",
                                       "nulll",
                                       "True",
                                       "TRUE",
                                       "tru",
                                       "NaN",
                                       "Infinity",
                                       "-Infinity",
                                       "+1",
                                       "-",
                                       "01",
                                       "-01",
                                       "1.",
                                       ".5",
                                       "1e",
                                       "1e+",
                                       "0x10",
                                       "1_000",
                                       "1,2",
                                       "1 1",
                                       "[1] x",
                                       "// c\n1",
                                       "/* c */1",
                                       "\"",
                                       "\"\\\"",
                                       "\"\\x\"",
                                       "\"\\u12\"",
                                       "\"\\u12g4\"",
                                       "\"\\U0041\"",
                                       "\"a\nb\"",
                                       "\"a\tb\"",
                                       "'a'",
                                       "\xef\xbb\xbf{}",
                                       "\xc2\xa0{}",
                                       "{\"a\":1}\v"}) {
    const auto value = ParseJson(text);
    EXPECT_EQ(ReasonOf(value.status()), "E_JSON") << text;
  }
  EXPECT_EQ(Canonical(absl::string_view("\"a\0b\"", 5)), "E_JSON");
  EXPECT_EQ(Canonical(absl::string_view("{}\0", 3)), "E_JSON");
}

TEST(JsonTest, RefusesStringsThatAreNotUnicodeText) {
  for (const absl::string_view bytes : {"\x80",
                                        "\xbf",
                                        "\xc0\x80",
                                        "\xc1\xbf",
                                        "\xc3",
                                        "\xc3(",
                                        "\xe0\x80\x80",
                                        "\xe2\x82",
                                        "\xed\xa0\x80",
                                        "\xed\xbf\xbf",
                                        "\xf0\x80\x80\x80",
                                        "\xf0\x9f\x98",
                                        "\xf4\x90\x80\x80",
                                        "\xf5\x80\x80\x80",
                                        "\xff",
                                        "\xef\xbf\xbe",
                                        "\xef\xbf\xbf",
                                        "\xef\xb7\x90",
                                        "\xf0\x9f\xbf\xbe",
                                        "\\ud800",
                                        "\\udc00",
                                        "\\ud800x",
                                        "\\ud800\\n",
                                        "\\ud800\\ud800",
                                        "\\udc00\\ud800",
                                        "\\ud83d\\u0041",
                                        "\\uffff",
                                        "\\ufdd0",
                                        "\\udbff\\udfff"}) {
    EXPECT_EQ(Canonical(absl::StrCat("\"", bytes, "\"")), "E_JSON") << bytes;
    EXPECT_EQ(Canonical(absl::StrCat("{\"", bytes, "\":1}")), "E_JSON");
  }
}

TEST(JsonTest, RefusesNamesThatOccurTwice) {
  EXPECT_EQ(Canonical(R"({"a":1,"a":1})"), "E_JSON");
  EXPECT_EQ(Canonical(R"({"a":1,"b":2,"a":3})"), "E_JSON");
  EXPECT_EQ(Canonical(R"({"a":1,"\u0061":2})"), "E_JSON");
  EXPECT_EQ(Canonical(R"({"/":1,"\/":2})"), "E_JSON");
  EXPECT_EQ(Canonical(R"([{"x":{"a":1,"a":2}}])"), "E_JSON");
  EXPECT_EQ(Canonical(R"({"":1,"":2})"), "E_JSON");
  EXPECT_EQ(Canonical(R"({"a":{"a":1},"A":2})"), R"({"A":2,"a":{"a":1}})");
}

TEST(JsonTest, ReadsNumbersByTheirValue) {
  EXPECT_EQ(Canonical("[250,250.0,2.5e2,25E1,2500e-1]"),
            "[250,250,250,250,250]");
  EXPECT_EQ(Canonical("[-0,0.0,-0.0e5,0e999999999999]"), "[0,0,0,0]");
  EXPECT_EQ(Canonical("[1e-400,-1e-400,0.0000000001e-320]"), "[0,0,0]");
  EXPECT_EQ(Canonical("9007199254740991"), "9007199254740991");
  EXPECT_EQ(Canonical("-9007199254740991"), "-9007199254740991");
  EXPECT_EQ(Canonical("9007199254740991.0"), "9007199254740991");
  EXPECT_EQ(Canonical("9.007199254740991e15"), "9007199254740991");
  EXPECT_EQ(Canonical("9007199254740991000e-3"), "9007199254740991");
}

TEST(JsonTest, RefusesNumbersBeyondExactIntegersInEverySpelling) {
  for (const absl::string_view text :
       {"9007199254740992", "-9007199254740992", "9007199254740993",
        "9007199254740992.0", "9.007199254740992e15", "90071992547409920e-1",
        "1e16", "1e308", "1e309", "1e400", "-1e400", "1e999999999999999999999",
        "100000000000000000000", "9007199254740991.9"}) {
    EXPECT_EQ(Canonical(text), "E_JSON") << text;
  }
  EXPECT_EQ(Canonical(std::string(400, '9')), "E_JSON");
  EXPECT_EQ(Canonical(absl::StrCat("0.", std::string(400, '0'), "1e500")),
            "E_JSON");
  EXPECT_EQ(Canonical(absl::StrCat("1", std::string(400, '0'), "e-800")), "0");
}

TEST(JsonTest, HoldsItsLimits) {
  const std::string deep16 = std::string(16, '[') + std::string(16, ']');
  const std::string deep17 = std::string(17, '[') + std::string(17, ']');
  EXPECT_EQ(Canonical(deep16), deep16);
  EXPECT_EQ(Canonical(deep17), "E_JSON");
  EXPECT_EQ(Canonical(std::string(100'000, '[')), "E_JSON");
  std::string objects;
  for (int i = 0; i < 17; ++i) objects += "{\"a\":";
  EXPECT_EQ(Canonical(objects + "1" + std::string(17, '}')), "E_JSON");

  std::string values = "[0";
  for (int i = 2; i < 20'000; ++i) values += ",0";  // With the array: 20,000.
  EXPECT_NE(Canonical(values + "]"), "E_JSON");
  EXPECT_EQ(Canonical(values + ",0]"), "E_JSON");

  const std::string text = absl::StrCat("\"", std::string(262'142, 'x'), "\"");
  EXPECT_NE(Canonical(text), "E_JSON");
  EXPECT_EQ(Canonical(text + " "), "E_JSON");
}

TEST(JsonTest, SaysWhereTheTextIsWrong) {
  const auto value = ParseJson("{\n  \"a\": 1,\n  \"a\": 2\n}");

  EXPECT_THAT(std::string(value.status().message()), HasSubstr("line 4"));
  EXPECT_THAT(std::string(value.status().message()), HasSubstr("'a'"));
}

TEST(JsonTest, KnowsIntegers) {
  EXPECT_EQ(JsonValue(250.0).integer(), 250);
  EXPECT_EQ(JsonValue(-3).integer(), -3);
  EXPECT_FALSE(JsonValue(2.5).integer().has_value());
  EXPECT_FALSE(JsonValue(1e300).integer().has_value());
  EXPECT_FALSE(JsonValue(true).integer().has_value());
  EXPECT_FALSE(JsonValue("1").integer().has_value());
}

TEST(JsonTest, EditsObjects) {
  JsonValue object = JsonValue::MakeObject();
  object.Set("b", 1);
  object.Set("a", 2);
  object.Set("b", "three");
  object.Set("c", JsonValue::Array{1, "x", JsonValue()});
  object.Remove("a");
  object.Remove("absent");

  EXPECT_EQ(Canonicalize(object), R"({"b":"three","c":[1,"x",null]})");
}

// RFC 8785, section 3.2.2 and 3.2.3.
TEST(CanonicalizeTest, WritesTheExampleOfTheRfc) {
  EXPECT_EQ(Canonical(R"({
        "numbers": [4.50, 2e-3, 0.000000000000000000000000001],
        "string": "\u20ac$\u000F\u000aA'\u0042\u0022\u005c\\\"\/",
        "literals": [null, true, false]
      })"),
            "{\"literals\":[null,true,false],\"numbers\":[4.5,0.002,1e-27],"
            "\"string\":\"\xe2\x82\xac$\\u000f\\nA'B\\\"\\\\\\\\\\\"/\"}");
}

TEST(CanonicalizeTest, SortsMembersByUtf16CodeUnits) {
  EXPECT_EQ(Canonical(R"({
              "\u20ac": "Euro Sign",
              "\r": "Carriage Return",
              "\ufb33": "Hebrew Letter Dalet With Dagesh",
              "1": "One",
              "\ud83d\ude00": "Emoji: Grinning Face",
              "\u0080": "Control",
              "\u00f6": "Latin Small Letter O With Diaeresis"
            })"),
            "{\"\\r\":\"Carriage Return\",\"1\":\"One\","
            "\"\xc2\x80\":\"Control\","
            "\"\xc3\xb6\":\"Latin Small Letter O With Diaeresis\","
            "\"\xe2\x82\xac\":\"Euro Sign\","
            "\"\xf0\x9f\x98\x80\":\"Emoji: Grinning Face\","
            "\"\xef\xac\xb3\":\"Hebrew Letter Dalet With Dagesh\"}");
  // Surrogate pairs come after U+D7FF and before U+E000; within the pairs, by
  // code point.
  EXPECT_EQ(Canonical(R"({"\ue000":1,"\ud800\udc00":2,"\ud7ff":3,
                          "\udbff\udffd":4,"\uffee":5})"),
            "{\"\xed\x9f\xbf\":3,\"\xf0\x90\x80\x80\":2,"
            "\"\xf4\x8f\xbf\xbd\":4,\"\xee\x80\x80\":1,\"\xef\xbf\xae\":5}");
  EXPECT_EQ(Canonical(R"({"ab":1,"a":2,"":3,"aa":4})"),
            R"({"":3,"a":2,"aa":4,"ab":1})");
}

TEST(CanonicalizeTest, EscapesOnlyWhatMustBe) {
  std::string text = "\"";
  for (int c = 0; c < 0x20; ++c) {
    absl::StrAppend(&text, "\\u00", absl::Hex(c, absl::kZeroPad2));
  }
  absl::StrAppend(&text, "\\u007f\\u2028/\"");

  EXPECT_EQ(Canonical(text),
            "\"\\u0000\\u0001\\u0002\\u0003\\u0004\\u0005\\u0006\\u0007\\b\\t"
            "\\n\\u000b\\f\\r\\u000e\\u000f\\u0010\\u0011\\u0012\\u0013\\u0014"
            "\\u0015\\u0016\\u0017\\u0018\\u0019\\u001a\\u001b\\u001c\\u001d"
            "\\u001e\\u001f\x7f\xe2\x80\xa8/\"");
}

// RFC 8785, appendix B: the bits of a double and what ECMAScript prints.
TEST(CanonicalizeTest, FormatsTheNumbersOfTheRfc) {
  struct Sample {
    uint64_t bits;
    absl::string_view text;
  };
  for (const Sample& sample : std::initializer_list<Sample>{
           {0x0000000000000000, "0"},
           {0x8000000000000000, "0"},
           {0x0000000000000001, "5e-324"},
           {0x8000000000000001, "-5e-324"},
           {0x7fefffffffffffff, "1.7976931348623157e+308"},
           {0xffefffffffffffff, "-1.7976931348623157e+308"},
           {0x4340000000000000, "9007199254740992"},
           {0xc340000000000000, "-9007199254740992"},
           {0x4430000000000000, "295147905179352830000"},
           {0x44b52d02c7e14af5, "9.999999999999997e+22"},
           {0x44b52d02c7e14af6, "1e+23"},
           {0x44b52d02c7e14af7, "1.0000000000000001e+23"},
           {0x444b1ae4d6e2ef4e, "999999999999999700000"},
           {0x444b1ae4d6e2ef4f, "999999999999999900000"},
           {0x444b1ae4d6e2ef50, "1e+21"},
           {0x3eb0c6f7a0b5ed8c, "9.999999999999997e-7"},
           {0x3eb0c6f7a0b5ed8d, "0.000001"},
           {0x41b3de4355555553, "333333333.3333332"},
           {0x41b3de4355555554, "333333333.33333325"},
           {0x41b3de4355555555, "333333333.3333333"},
           {0x41b3de4355555556, "333333333.3333334"},
           {0x41b3de4355555557, "333333333.33333343"},
           {0xbecbf647612f3696, "-0.0000033333333333333333"},
           {0x43143ff3c1cb0959, "1424953923781206.2"},
       }) {
    EXPECT_EQ(FormatNumber(FromBits(sample.bits)), sample.text);
  }
}

TEST(CanonicalizeTest, FormatsNumbersAroundTheChangesOfNotation) {
  EXPECT_EQ(FormatNumber(100), "100");
  EXPECT_EQ(FormatNumber(123456789012345680000.0), "123456789012345680000");
  EXPECT_EQ(FormatNumber(0.1), "0.1");
  EXPECT_EQ(FormatNumber(1.5), "1.5");
  EXPECT_EQ(FormatNumber(-0.00001234), "-0.00001234");
  EXPECT_EQ(FormatNumber(1e-6), "0.000001");
  EXPECT_EQ(FormatNumber(1e-7), "1e-7");
  EXPECT_EQ(FormatNumber(1.25e-7), "1.25e-7");
  EXPECT_EQ(FormatNumber(1e21), "1e+21");
  EXPECT_EQ(FormatNumber(1e20), "100000000000000000000");
}

TEST(CanonicalizeTest, IsAFixedPoint) {
  const std::string once =
      Canonical(R"({"b":[1.50,{"z":null,"a":"\u00e9"}],"a":1e3})");

  EXPECT_EQ(Canonical(once), once);
}

TEST(PrettyPrintTest, IndentsAndReadsBack) {
  const auto value = ParseJson(R"({"b":[1,{}],"a":{"c":[]}})");
  ASSERT_TRUE(value.ok());

  const std::string text = PrettyPrint(*value);

  EXPECT_EQ(text,
            "{\n \"a\": {\n  \"c\": []\n },\n \"b\": [\n  1,\n  {}\n ]\n}\n");
  EXPECT_EQ(Canonical(text), Canonicalize(*value));
}

}  // namespace
}  // namespace mycelium::spore
