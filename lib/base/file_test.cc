#include "lib/base/file.h"

#include <sys/stat.h>
#include <unistd.h>

#include <string>

#include "absl/status/status.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace mycelium {
namespace {

class FileTest : public testing::Test {
 protected:
  FileTest() : directory_(*TempDirectory::Create("file_test.")) {}

  std::string Path(const std::string& name) const {
    return JoinPath(directory_.path(), name);
  }

  TempDirectory directory_;
};

TEST_F(FileTest, ReadsWhatWasWritten) {
  ASSERT_TRUE(WriteFileAtomically(Path("a"), "one").ok());
  ASSERT_TRUE(WriteFileAtomically(Path("a"), "two").ok());

  EXPECT_EQ(*ReadFile(Path("a")), "two");
  EXPECT_THAT(*ListDirectory(directory_.path()), testing::ElementsAre("a"));
}

TEST_F(FileTest, NamesThePathThatIsMissing) {
  const absl::Status status = ReadFile(Path("none")).status();

  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(status.message()), testing::HasSubstr("/none"));
}

TEST_F(FileTest, RefusesFilesAboveTheLimit) {
  ASSERT_TRUE(WriteFileAtomically(Path("a"), "12345").ok());
  EXPECT_EQ(ReadFile(Path("a"), 4).status().code(),
            absl::StatusCode::kResourceExhausted);
}

TEST_F(FileTest, LeavesNothingWhenAWriteFails) {
  ASSERT_TRUE(MakeDirectories(Path("d")).ok());
  EXPECT_FALSE(WriteFileAtomically(Path("d"), "x").ok());
  EXPECT_THAT(*ListDirectory(directory_.path()), testing::ElementsAre("d"));
}

TEST_F(FileTest, MakesAndRemovesTrees) {
  ASSERT_TRUE(MakeDirectories(Path("x/y/z")).ok());
  ASSERT_TRUE(MakeDirectories(Path("x/y/z")).ok());
  ASSERT_EQ(symlink("/etc", Path("x/link").c_str()), 0);

  ASSERT_TRUE(RemoveTree(Path("x")).ok());

  EXPECT_THAT(*ListDirectory(directory_.path()), testing::IsEmpty());
  EXPECT_TRUE(ReadFile("/etc/passwd").ok());
}

TEST_F(FileTest, MakesNoDirectoryOverAFile) {
  ASSERT_TRUE(WriteFileAtomically(Path("f"), "").ok());
  EXPECT_EQ(MakeDirectories(Path("f")).code(),
            absl::StatusCode::kAlreadyExists);
}

}  // namespace
}  // namespace mycelium
