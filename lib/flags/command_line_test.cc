#include "lib/flags/command_line.h"

#include <cstdlib>
#include <string>
#include <vector>

#include "gflags/gflags.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

DEFINE_string(sample_address, "127.0.0.1:1",
              "HOST:PORT of something with a text that is long enough to need "
              "more than one line of the width that a terminal has");
DEFINE_int32(sample_count, 3, "how many");

namespace mycelium::flags {
namespace {

using ::testing::ExitedWithCode;
using ::testing::HasSubstr;
using ::testing::Not;

// Parses as main() would; the status is then --sample_count.
void Parse(std::vector<std::string> arguments) {
  arguments.insert(arguments.begin(), "sample");
  std::vector<char*> argv;
  for (std::string& argument : arguments) argv.push_back(argument.data());
  ParseCommandLine("sample is for tests.", static_cast<int>(argv.size()),
                   argv.data());
  // The process of a death test has this thread alone.
  std::exit(FLAGS_sample_count);  // NOLINT(concurrency-mt-unsafe)
}

TEST(HelpTextTest, ShowsOurFlagsWithDefaultsAndTexts) {
  const std::string text = HelpText("sample is for tests.");

  EXPECT_THAT(text, HasSubstr("sample is for tests.\n"));
  EXPECT_THAT(text, HasSubstr("  --sample_address (string, default "
                              "\"127.0.0.1:1\")\n      HOST:PORT of "));
  EXPECT_THAT(
      text, HasSubstr("  --sample_count (int32, default 3)\n      how many\n"));
}

TEST(HelpTextTest, LeavesTheFlagsOfLibrariesOut) {
  EXPECT_THAT(HelpText("x"), Not(HasSubstr("--tab_completion_word (")));
}

TEST(ParseCommandLineTest, AnswersHelpWithStatus0) {
  EXPECT_EXIT(Parse({"--help"}), ExitedWithCode(0), "");
  EXPECT_EXIT(Parse({"-h"}), ExitedWithCode(0), "");
  EXPECT_EXIT(Parse({"--version"}), ExitedWithCode(0), "");
}

TEST(ParseCommandLineTest, TakesFlags) {
  EXPECT_EXIT(Parse({"--sample_count=7"}), ExitedWithCode(7), "");
}

TEST(ParseCommandLineTest, NamesWhatItDoesNotKnow) {
  EXPECT_EXIT(Parse({"--no_such_flag"}), ExitedWithCode(1), "no_such_flag");
  EXPECT_EXIT(Parse({"--sample_count=many"}), ExitedWithCode(1), "many");
  EXPECT_EXIT(Parse({"stray"}), ExitedWithCode(2), "'stray' is no flag");
}

}  // namespace
}  // namespace mycelium::flags
