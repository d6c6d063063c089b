#include "services/repo/file_writer.h"

#include <fcntl.h>
#include <sys/resource.h>

#include <csignal>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "lib/base/file.h"

namespace mycelium::repo {
namespace {

std::string BytesOf(size_t size) {
  std::string bytes(size, '\0');
  for (size_t i = 0; i < size; ++i) {
    bytes[i] = static_cast<char>(i * 7 + i / 251);
  }
  return bytes;
}

class FileWriterTest : public ::testing::TestWithParam<FileWriter::Mode> {
 protected:
  FileWriterTest()
      : directory_(*TempDirectory::Create("file_writer.")),
        path_(JoinPath(directory_.path(), "file")),
        fd_(open(path_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600)) {}

  TempDirectory directory_;
  std::string path_;
  UniqueFd fd_;
};

TEST_P(FileWriterTest, WritesFilesOfAllSizesFromPiecesOfAllSizes) {
  for (const size_t size : {0, 1, 4'095, 4'096, 1 << 20, (3 << 20) + 12'345}) {
    const std::string bytes = BytesOf(size);
    for (const size_t piece_bytes : {999, 16'384, 5 << 20}) {
      ASSERT_EQ(ftruncate(fd_.get(), 0), 0);
      ASSERT_EQ(lseek(fd_.get(), 0, SEEK_SET), 0);
      FileWriter writer(fd_.get(), GetParam());

      std::vector<absl::string_view> pieces;
      for (size_t at = 0; at < size; at += piece_bytes) {
        pieces.push_back(absl::string_view(bytes).substr(at, piece_bytes));
        if (pieces.size() < 300 && at + piece_bytes < size) continue;
        ASSERT_EQ(writer.Append(pieces), absl::OkStatus());
        pieces.clear();
      }
      ASSERT_EQ(writer.Finish(), absl::OkStatus());

      EXPECT_EQ(writer.written_bytes(), static_cast<int64_t>(size));
      EXPECT_TRUE(*ReadFile(path_) == bytes)
          << size << " bytes in pieces of " << piece_bytes;
    }
  }
}

TEST_P(FileWriterTest, ReportsThatThereIsNoRoom) {
  std::signal(SIGXFSZ, SIG_IGN);
  rlimit before = {};
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &before), 0);
  rlimit limit = before;
  limit.rlim_cur = (2 << 20) + 1'000;
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &limit), 0);
  FileWriter writer(fd_.get(), GetParam());
  const std::string bytes = BytesOf(3 << 20);

  absl::Status status = writer.Append({bytes});
  if (status.ok()) status = writer.Finish();

  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &before), 0);
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted) << status;
}

INSTANTIATE_TEST_SUITE_P(Modes, FileWriterTest,
                         ::testing::Values(FileWriter::Mode::kBuffered,
                                           FileWriter::Mode::kDirect));

}  // namespace
}  // namespace mycelium::repo
