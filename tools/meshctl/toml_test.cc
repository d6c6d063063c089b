#include "tools/meshctl/toml.h"

#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace mycelium::meshctl {
namespace {

using ::testing::HasSubstr;

std::string Read(const std::string& text) {
  const auto json = ParseToml(text);
  return json.ok() ? spore::Canonicalize(*json)
                   : std::string(json.status().message());
}

TEST(TomlTest, ReadsADescription) {
  EXPECT_EQ(
      Read("# comment\n"
           "name = \"billing\"  # more\n"
           "args = [\n  \"--a\", # first\n  'b\\',\n]\n"
           "env.GREETING = \"h\\u00e9\\n\"\n"
           "[nutrients]\ncpu_milli = 1_000\n"
           "[health]\r\npath = '/health'\r\n"
           "[[files]]\npath = \"a\"\n[[files]]\npath = \"b\"\nexec = true\n"),
      R"({"args":["--a","b\\"],"env":{"GREETING":"hé\n"},)"
      R"("files":[{"path":"a"},{"exec":true,"path":"b"}],)"
      R"("health":{"path":"/health"},"name":"billing",)"
      R"("nutrients":{"cpu_milli":1000}})");
}

TEST(TomlTest, ReadsNestedTablesAndInlineOnes) {
  EXPECT_EQ(
      Read("current = \"prod\"\n[context.prod]\nfabric = \"a:1\"\n"
           "[context.\"x y\"]\nfabric = \"b:2\"\n"
           "[plan]\nstrategy = { kind = \"KIND_ROLLING\", maxSurge = 2 }\n"),
      R"({"context":{"prod":{"fabric":"a:1"},"x y":{"fabric":"b:2"}},)"
      R"("current":"prod",)"
      R"("plan":{"strategy":{"kind":"KIND_ROLLING","maxSurge":2}}})");
}

TEST(TomlTest, SaysInWhichLineWhatIsWrong) {
  const struct {
    const char* text;
    const char* message;
  } cases[] = {
      {"a = 1\nb", "line 2: expected '='"},
      {"a = x", "line 1: 'x' is no value; strings stand in quotes"},
      {"a = \"x", "line 1: the string is not closed"},
      {"a = 1\na = 2", "line 2: 'a' is there twice"},
      {"[t]\n[t]", "line 2: 't' is there twice"},
      {"a = 1 b = 2", "line 1: unexpected"},
      {"a = [1, 2", "line 1: expected ',' or ']'"},
      {"[a", "line 1: expected ']'"},
      {"a = \"\\q\"", "line 1: unknown escape"},
      {"a = 1\n[a.b]", "line 2: 'a' is no table"},
      {"a = { b = 1 }\n[a.c]\nd = 1", ""},
      {"= 1", "line 1: expected a name"},
      {"a = \"\"\"x\"\"\"", "line 1: strings of several lines"},
  };
  for (const auto& c : cases) {
    EXPECT_THAT(Read(c.text), HasSubstr(c.message)) << c.text;
  }
}

TEST(TomlTest, RefusesNestingThatHasNoEnd) {
  EXPECT_THAT(Read("a = " + std::string(100'000, '[')), HasSubstr("too deep"));
}

}  // namespace
}  // namespace mycelium::meshctl
