#include "services/agent/process_record.h"

#include <unistd.h>

#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "gtest/gtest.h"

namespace mycelium::agent {
namespace {

ProcessRecord SomeRecord() {
  return {.instance_id = "shop-1a2b",
          .run = 3,
          .boot_id = "7a4c",
          .pid = 4242,
          .start_ticks = 123456789,
          .cgroup = "/sys/fs/cgroup/with space/x"};
}

TEST(ProcessRecordTest, SurvivesItsFile) {
  const absl::StatusOr<ProcessRecord> record =
      ProcessRecord::Parse(SomeRecord().Serialize());

  ASSERT_TRUE(record.ok()) << record.status();
  EXPECT_EQ(*record, SomeRecord());
}

TEST(ProcessRecordTest, IsRefusedWhenItIsTruncatedAnywhere) {
  const std::string text = SomeRecord().Serialize();

  for (size_t length = 0; length < text.size(); ++length) {
    EXPECT_FALSE(ProcessRecord::Parse(text.substr(0, length)).ok()) << length;
  }
}

TEST(ProcessRecordTest, NeverNamesTheInitProcess) {
  ProcessRecord record = SomeRecord();
  record.pid = 1;
  EXPECT_FALSE(ProcessRecord::Parse(record.Serialize()).ok());
  record.pid = -7;
  EXPECT_FALSE(ProcessRecord::Parse(record.Serialize()).ok());
}

TEST(ProcessStatTest, ReadsThisProcess) {
  const absl::StatusOr<ProcessStat> stat = ReadProcessStat(getpid());

  ASSERT_TRUE(stat.ok()) << stat.status();
  EXPECT_EQ(stat->parent, getppid());
  EXPECT_EQ(stat->group, getpgrp());
  EXPECT_EQ(stat->session, getsid(0));
  EXPECT_GT(stat->start_ticks, 0);
}

TEST(ProcessStatTest, SaysWhenThereIsNone) {
  EXPECT_EQ(ReadProcessStat(0x7ffffff0).status().code(),
            absl::StatusCode::kNotFound);
}

TEST(ProcessStatTest, KnowsTheBoot) {
  const absl::StatusOr<std::string> boot_id = ReadBootId();

  ASSERT_TRUE(boot_id.ok()) << boot_id.status();
  EXPECT_EQ(boot_id->size(), 36u);
}

}  // namespace
}  // namespace mycelium::agent
