#include "services/agent/log_pump.h"

#include <fcntl.h>
#include <unistd.h>

#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "lib/base/file.h"
#include "services/agent/log_reader.h"
#include "services/agent/log_store.h"

namespace mycelium::agent {
namespace {

using ::testing::ElementsAre;
using ::testing::SizeIs;

struct Ends {
  UniqueFd read;
  UniqueFd write;
};

Ends MakePipe() {
  int fds[2] = {-1, -1};
  EXPECT_EQ(pipe2(fds, O_CLOEXEC), 0);
  return {.read = UniqueFd(fds[0]), .write = UniqueFd(fds[1])};
}

class LogPumpTest : public ::testing::Test {
 protected:
  LogPumpTest()
      : directory_(TempDirectory::Create("log-pump").value()),
        store_(
            LogStore::Open(directory_.path(), options_, Clock::Real()).value()),
        pump_(LogPump::Start(store_.get(), Clock::Real()).value()),
        out_(MakePipe()),
        err_(MakePipe()) {}

  void Add() {
    pump_->Add("shop-1", 1, std::move(out_.read), std::move(err_.read));
  }

  std::vector<std::string> Lines() {
    LogReader reader(store_.get(), {});
    reader.AddSource({.instance_id = "shop-1"});
    std::vector<std::string> texts;
    for (const LogReader::Line& line : reader.Read(int64_t{1} << 30)) {
      texts.push_back(line.text);
    }
    return texts;
  }

  LogStoreOptions options_ = {.max_file_bytes = int64_t{1} << 20,
                              .max_files = 4};
  TempDirectory directory_;
  std::unique_ptr<LogStore> store_;
  std::unique_ptr<LogPump> pump_;
  Ends out_;
  Ends err_;
};

TEST_F(LogPumpTest, KeepsLinesAndReturnsTheLastOnesOfStderr) {
  Add();
  ASSERT_TRUE(WriteFully(out_.write.get(), "one\ntwo\n").ok());
  for (int i = 0; i < 30; ++i) {
    ASSERT_TRUE(WriteFully(err_.write.get(), absl::StrCat("e", i, "\n")).ok());
  }

  const std::vector<std::string> last = pump_->Finish("shop-1", 1);

  ASSERT_THAT(last, SizeIs(20));
  EXPECT_EQ(last.front(), "e10");
  EXPECT_EQ(last.back(), "e29");
  EXPECT_THAT(Lines(), SizeIs(32));
}

TEST_F(LogPumpTest, KeepsALineWithoutAnEnd) {
  Add();
  ASSERT_TRUE(WriteFully(out_.write.get(), "begin").ok());
  ASSERT_TRUE(WriteFully(out_.write.get(), " and end").ok());

  pump_->Finish("shop-1", 1);

  EXPECT_THAT(Lines(), ElementsAre("begin and end"));
}

TEST_F(LogPumpTest, CutsLinesThatAreTooLongAndLosesNothing) {
  Add();
  const std::string line(3 * kMaxLineBytes + 100, 'x');
  ASSERT_TRUE(WriteFully(out_.write.get(), line + "\nshort\n").ok());

  pump_->Finish("shop-1", 1);

  std::string all;
  for (const std::string& text : Lines()) {
    EXPECT_LE(text.size(), kMaxLineBytes);
    all += text;
  }
  EXPECT_EQ(all, line + "short");
}

TEST_F(LogPumpTest, DoesNotWaitForADaemonThatHoldsThePipe) {
  Add();
  ASSERT_TRUE(WriteFully(err_.write.get(), "last words\n").ok());

  // The write ends stay open.
  EXPECT_THAT(pump_->Finish("shop-1", 1), ElementsAre("last words"));
}

TEST_F(LogPumpTest, KeepsUpWithAFloodAndBoundsTheFiles) {
  Add();
  const std::string block(int64_t{1} << 20, 'y');
  for (int i = 0; i < 32; ++i) {
    ASSERT_TRUE(WriteFully(out_.write.get(), block).ok());
  }
  pump_->Finish("shop-1", 1);

  size_t bytes = 0;
  for (const LogStore::File& file : store_->FilesOf("shop-1")) {
    bytes += ReadFile(file.path).value().size();
  }
  EXPECT_LE(bytes, size_t{4} << 20);
}

TEST_F(LogPumpTest, FinishesWhatItDoesNotKnow) {
  EXPECT_THAT(pump_->Finish("never-added", 7), SizeIs(0));
}

}  // namespace
}  // namespace mycelium::agent
