// kill -9 at random moments, over and over: what was acknowledged is there,
// what is there was written, and revisions have no gaps.
//
// --rounds says how often.

#include <fcntl.h>
#include <gflags/gflags.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "lib/base/clock.h"
#include "lib/base/file.h"
#include "services/fabric/store/sqlite_store.h"
#include "services/fabric/store/store.h"

DEFINE_int32(rounds, 200, "how often the writer is killed");
DEFINE_int32(seed, 1, "what the moments depend on");
DEFINE_string(writer, "services/fabric/store/sqlite_kill_writer",
              "the program that writes");

extern char** environ;

namespace mycelium::fabric {
namespace {

constexpr int64_t kWriters = 8;
constexpr int64_t kSlots = 32;

// The writer, killed at the end if not before.
class Writer {
 public:
  explicit Writer(const std::string& path) {
    int ends[2] = {-1, -1};
    if (::pipe2(ends, O_CLOEXEC) != 0) return;
    output_.reset(ends[0]);
    const UniqueFd input(ends[1]);
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, input.get(), STDOUT_FILENO);
    std::vector<std::string> words = {
        FLAGS_writer, path, absl::StrCat(kWriters), absl::StrCat(kSlots)};
    std::vector<char*> argv;
    for (std::string& word : words) argv.push_back(word.data());
    argv.push_back(nullptr);
    if (::posix_spawn(&pid_, argv[0], &actions, nullptr, argv.data(),
                      environ) != 0) {
      pid_ = -1;
    }
    posix_spawn_file_actions_destroy(&actions);
  }
  ~Writer() { Kill(); }

  bool started() const { return pid_ > 0; }

  // Reads what it says for `duration`, or until it ends.
  void Read(absl::Duration duration) {
    const absl::Duration end = Clock::Real()->Monotonic() + duration;
    while (true) {
      const absl::Duration left = end - Clock::Real()->Monotonic();
      if (left <= absl::ZeroDuration()) return;
      pollfd poller = {output_.get(), POLLIN, 0};
      const int timeout_ms =
          static_cast<int>(absl::ToInt64Milliseconds(left)) + 1;
      if (::poll(&poller, 1, timeout_ms) > 0 && !ReadSome()) return;
    }
  }

  // Kills it, and reads what it had said by then.
  void Kill() {
    if (pid_ <= 0) return;
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, &status_, 0);
    pid_ = -1;
    while (ReadSome()) {
    }
  }

  bool was_killed() const {
    return WIFSIGNALED(status_) && WTERMSIG(status_) == SIGKILL;
  }
  const std::string& said() const { return said_; }

 private:
  bool ReadSome() {
    char buffer[65536];
    const ssize_t count = ::read(output_.get(), buffer, sizeof(buffer));
    if (count > 0) said_.append(buffer, static_cast<size_t>(count));
    return count > 0;
  }

  UniqueFd output_;
  pid_t pid_ = -1;
  int status_ = 0;
  std::string said_;
};

struct Acknowledged {
  int64_t number = 0;
  int64_t revision = 0;
};

// What `said` acknowledges, added to `last`, the newest of each writer.
void Parse(const std::string& said, std::map<int64_t, Acknowledged>& last,
           int64_t& highest_revision) {
  for (const absl::string_view line :
       absl::StrSplit(said, '\n', absl::SkipEmpty())) {
    const std::vector<absl::string_view> words = absl::StrSplit(line, ' ');
    int64_t writer = 0;
    Acknowledged acknowledged;
    ASSERT_EQ(words.size(), 3u) << line;
    ASSERT_TRUE(absl::SimpleAtoi(words[0], &writer)) << line;
    ASSERT_TRUE(absl::SimpleAtoi(words[1], &acknowledged.number)) << line;
    ASSERT_TRUE(absl::SimpleAtoi(words[2], &acknowledged.revision)) << line;
    ASSERT_GT(acknowledged.number, last[writer].number);
    ASSERT_GT(acknowledged.revision, last[writer].revision);
    last[writer] = acknowledged;
    highest_revision = std::max(highest_revision, acknowledged.revision);
  }
}

// `last` becomes the writer's newest write, acknowledged or not.
void CheckWriter(Store& store, int64_t writer, Acknowledged& last,
                 int64_t& total) {
  const absl::StatusOr<RangeResponse> slots =
      store.Range(RangeRequest::Prefix(absl::StrCat("writer/", writer, "/")));
  ASSERT_TRUE(slots.ok()) << slots.status();
  std::map<int64_t, std::pair<int64_t, int64_t>> by_number;
  int64_t highest = 0;
  for (const auto& entry : slots->entries) {
    int64_t number = 0;
    ASSERT_TRUE(absl::SimpleAtoi(entry->value.substr(0, entry->value.find(' ')),
                                 &number));
    EXPECT_EQ(entry->key,
              absl::StrCat("writer/", writer, "/", number % kSlots));
    by_number[number] = {entry->mod_revision, entry->version};
    highest = std::max(highest, number);
  }
  // One write may have been committed and not been acknowledged any more.
  EXPECT_GE(highest, last.number) << "writer " << writer;
  EXPECT_LE(highest, last.number + 1) << "writer " << writer;
  total += highest;
  int64_t revision = 0;
  for (int64_t n = std::max<int64_t>(1, highest - kSlots + 1); n <= highest;
       ++n) {
    ASSERT_TRUE(by_number.contains(n))
        << "writer " << writer << " lost number " << n << " of " << highest;
    EXPECT_GT(by_number[n].first, revision);
    // Each slot has been written once per turn.
    EXPECT_EQ(by_number[n].second, (n + kSlots - 1) / kSlots) << n;
    revision = by_number[n].first;
    if (n == last.number) {
      EXPECT_EQ(revision, last.revision);
    }
  }
  last = {highest, revision};
}

void CheckStore(const std::string& path, std::map<int64_t, Acknowledged>& last,
                int64_t highest_revision) {
  auto opened = OpenSqliteStore(path, StoreOptions());
  ASSERT_TRUE(opened.ok()) << opened.status();
  Store& store = **opened;
  EXPECT_GE(store.Revision(), highest_revision);
  int64_t total = 0;
  for (auto& [writer, acknowledged] : last) {
    CheckWriter(store, writer, acknowledged, total);
  }
  // Every transaction put one number and raised one counter by one, and there
  // were no others: none is lost, none is there twice, and none in part.
  const absl::StatusOr<RangeResponse> counters =
      store.Range(RangeRequest::Prefix("counter/"));
  ASSERT_TRUE(counters.ok());
  int64_t counted = 0;
  for (const auto& counter : counters->entries) {
    int64_t count = 0;
    ASSERT_TRUE(absl::SimpleAtoi(counter->value, &count));
    EXPECT_EQ(counter->version, count);
    counted += count;
  }
  EXPECT_EQ(counted, total);
  EXPECT_EQ(store.Revision(), total);
  const absl::StatusOr<Changes> changes =
      store.ReadChanges(store.CompactRevision(), size_t{1} << 30);
  ASSERT_TRUE(changes.ok()) << changes.status();
  int64_t revision = store.CompactRevision();
  for (const auto& batch : changes->batches) {
    EXPECT_EQ(batch->revision, ++revision);
    EXPECT_EQ(batch->changes.size(), 2u);
  }
  EXPECT_EQ(revision, store.Revision());
}

TEST(SqliteKillTest, LosesNoAcknowledgedWriteAndLeavesNoGap) {
  absl::StatusOr<TempDirectory> directory = TempDirectory::Create("kill");
  ASSERT_TRUE(directory.ok()) << directory.status();
  const std::string path = JoinPath(directory->path(), "fabric.db");
  std::map<int64_t, Acknowledged> last;
  for (int64_t writer = 0; writer < kWriters; ++writer) last[writer] = {};
  int64_t highest_revision = 0;
  std::mt19937 random(static_cast<uint32_t>(FLAGS_seed));
  int rounds_with_writes = 0;
  for (int round = 0; round < FLAGS_rounds; ++round) {
    // From before the store is open to well into the writing.
    const absl::Duration life = absl::Microseconds(random() % 150'000);
    Writer writer(path);
    ASSERT_TRUE(writer.started()) << FLAGS_writer;
    writer.Read(life);
    writer.Kill();
    ASSERT_TRUE(writer.was_killed()) << "the writer failed by itself";
    if (!writer.said().empty()) ++rounds_with_writes;
    Parse(writer.said(), last, highest_revision);
    CheckStore(path, last, highest_revision);
    if (testing::Test::HasFailure()) {
      FAIL() << "in round " << round << " of seed " << FLAGS_seed;
    }
  }
  EXPECT_GT(rounds_with_writes, FLAGS_rounds / 3);
  RecordProperty("rounds", FLAGS_rounds);
  RecordProperty("revisions", static_cast<int>(highest_revision));
}

}  // namespace
}  // namespace mycelium::fabric

int main(int argc, char** argv) {
  testing::InitGoogleMock(&argc, argv);
  gflags::ParseCommandLineFlags(&argc, &argv, /*remove_flags=*/true);
  return RUN_ALL_TESTS();
}
