#include "lib/telemetry/process_stats.h"

#include <fcntl.h>
#include <unistd.h>

#include <ctime>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace mycelium::telemetry {
namespace {

using ::testing::HasSubstr;

TEST(ProcessStatsTest, DescribeThisProcess) {
  const ProcessStats stats = ReadProcessStats();

  EXPECT_GE(stats.threads, 1);
  EXPECT_GT(stats.resident_bytes, 100'000);
  EXPECT_GT(stats.virtual_bytes, stats.resident_bytes);
  EXPECT_LT(stats.virtual_bytes, int64_t{1} << 47);
  EXPECT_GE(stats.max_fds, stats.open_fds);
  const auto now = static_cast<double>(std::time(nullptr));
  EXPECT_NEAR(stats.start_seconds, now, 3600);
  EXPECT_GE(stats.cpu_seconds, 0);
}

TEST(ProcessStatsTest, CountDescriptors) {
  const int64_t before = ReadProcessStats().open_fds;
  const int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
  ASSERT_GE(fd, 0);

  EXPECT_EQ(ReadProcessStats().open_fds, before + 1);
  close(fd);
}

TEST(ProcessStatsTest, CountTimeThatIsSpent) {
  const double before = ReadProcessStats().cpu_seconds;
  const clock_t end = std::clock() + CLOCKS_PER_SEC / 10;
  while (std::clock() < end) {
  }

  EXPECT_GE(ReadProcessStats().cpu_seconds, before + 0.05);
}

TEST(ProcessStatsTest, HaveTheirClassicNames) {
  Exposition out(ExpositionFormat::kText);
  ProcessStats stats;
  stats.cpu_seconds = 1.5;
  AddProcessStats(stats, &out);

  EXPECT_THAT(out.Finish(), HasSubstr("\nprocess_cpu_seconds_total 1.5\n"));
}

}  // namespace
}  // namespace mycelium::telemetry
