// Measures the fabric's store by itself: durable puts per second with some
// numbers of writers, beside what the disk can do; opening; memory.

#include <fcntl.h>
#include <gflags/gflags.h>
#include <malloc.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "lib/base/clock.h"
#include "lib/base/file.h"
#include "services/fabric/store/memory_store.h"
#include "services/fabric/store/sqlite_store.h"
#include "services/fabric/store/store.h"

DEFINE_string(dir, "", "where to write; empty: a temporary directory");
DEFINE_double(seconds, 3, "length of each measurement");
DEFINE_string(writers, "1,8,64", "numbers of concurrent writers");
DEFINE_int32(value_bytes, 200, "size of the values");
DEFINE_int32(keys, 100000, "number of keys");
DEFINE_int32(nodes, 1000,
             "leases that the keys are spread over when opening and memory "
             "are measured");

namespace mycelium::fabric {
namespace {

absl::Duration Now() { return Clock::Real()->Monotonic(); }

void Check(const absl::Status& status) {
  if (status.ok()) return;
  std::fprintf(stderr, "%s\n", status.ToString().c_str());
  // A bench that cannot go on has nothing to save.
  // NOLINTNEXTLINE(concurrency-mt-unsafe)
  std::exit(1);
}

// Writes of 4 KiB, each followed by a sync, per second.
double SyncRate(const std::string& directory, bool overwrite) {
  const std::string path = JoinPath(directory, "sync_rate");
  const UniqueFd file(::open(path.c_str(), O_CREAT | O_RDWR, 0644));
  const std::string page(4096, 'x');
  constexpr int kPages = 4096;
  if (overwrite) {
    for (int i = 0; i < kPages; ++i) Check(WriteFully(file.get(), page));
    ::fsync(file.get());
  }
  int64_t writes = 0;
  const absl::Duration start = Now();
  const absl::Duration end = start + absl::Seconds(FLAGS_seconds);
  while (Now() < end) {
    const off_t offset =
        static_cast<off_t>(overwrite ? writes % kPages : writes) * 4096;
    if (::pwrite(file.get(), page.data(), page.size(), offset) < 0 ||
        ::fdatasync(file.get()) != 0) {
      Check(ErrnoStatus(errno, path));
    }
    ++writes;
  }
  const double rate =
      static_cast<double>(writes) / absl::ToDoubleSeconds(Now() - start);
  ::unlink(path.c_str());
  return rate;
}

std::string KeyOf(int64_t i) {
  return absl::StrFormat("/instances/node-%04d/instance-%06d", i % FLAGS_nodes,
                         i);
}

struct PutRate {
  double per_second = 0;
  double per_commit = 0;
  absl::Duration p50;
  absl::Duration p99;
};

PutRate MeasurePuts(Store& store, int writers) {
  const StoreStats before = store.Stats();
  std::vector<std::vector<absl::Duration>> latencies(
      static_cast<size_t>(writers));
  std::vector<std::thread> threads;
  const absl::Duration start = Now();
  const absl::Duration end = start + absl::Seconds(FLAGS_seconds);
  for (int w = 0; w < writers; ++w) {
    threads.emplace_back([&, w] {
      uint64_t random = static_cast<uint64_t>(w) * 7919 + 17;
      absl::Duration now = Now();
      while (now < end) {
        random = random * 6364136223846793005 + 1442695040888963407;
        TxnRequest put;
        put.then_ops.push_back(Op::Put(
            KeyOf(static_cast<int64_t>((random >> 33) %
                                       static_cast<uint64_t>(FLAGS_keys))),
            std::string(static_cast<size_t>(FLAGS_value_bytes),
                        static_cast<char>('a' + random % 26))));
        Check(store.Txn(std::move(put)).status());
        const absl::Duration done = Now();
        latencies[static_cast<size_t>(w)].push_back(done - now);
        now = done;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  const absl::Duration took = Now() - start;

  std::vector<absl::Duration> all;
  for (const auto& one : latencies)
    all.insert(all.end(), one.begin(), one.end());
  std::sort(all.begin(), all.end());
  const StoreStats after = store.Stats();
  return {.per_second =
              static_cast<double>(all.size()) / absl::ToDoubleSeconds(took),
          .per_commit = static_cast<double>(after.committed_requests -
                                            before.committed_requests) /
                        static_cast<double>(std::max<int64_t>(
                            1, after.commits - before.commits)),
          .p50 = all[all.size() / 2],
          .p99 = all[all.size() * 99 / 100]};
}

// Puts every key once, each under the lease of its node.
void Fill(Store& store) {
  std::vector<LeaseId> leases;
  for (int i = 0; i < FLAGS_nodes; ++i) {
    const absl::StatusOr<LeaseId> lease = store.Grant(absl::Hours(1));
    Check(lease.status());
    leases.push_back(*lease);
  }
  std::atomic<int64_t> left = 0;
  for (int64_t i = 0; i < FLAGS_keys; ++i) {
    while (left.load() >= 2000) std::this_thread::yield();
    ++left;
    TxnRequest put;
    put.then_ops.push_back(Op::Put(
        KeyOf(i), std::string(static_cast<size_t>(FLAGS_value_bytes), 'v'),
        leases[static_cast<size_t>(i % FLAGS_nodes)]));
    store.TxnAsync(std::move(put), [&](const auto& response) {
      Check(response.status());
      --left;
    });
  }
  while (left.load() > 0) std::this_thread::yield();
}

double ResidentMegabytes() {
  ::malloc_trim(0);
  const absl::StatusOr<std::string> statm = ReadFile("/proc/self/statm");
  Check(statm.status());
  const std::vector<std::string> fields = absl::StrSplit(*statm, ' ');
  int64_t pages = 0;
  if (!absl::SimpleAtoi(fields[1], &pages)) return 0;
  return static_cast<double>(pages * ::sysconf(_SC_PAGESIZE)) / (1 << 20);
}

void Run() {
  absl::StatusOr<TempDirectory> temporary =
      TempDirectory::Create("store_bench");
  Check(temporary.status());
  const std::string directory =
      FLAGS_dir.empty() ? temporary->path() : FLAGS_dir;

  const double append = SyncRate(directory, false);
  const double overwrite = SyncRate(directory, true);
  absl::PrintF("in %s, 4 KiB + fdatasync: %.0f/s appended, %.0f/s in place\n",
               directory, append, overwrite);

  const std::string path = JoinPath(directory, "store_bench.db");
  for (const absl::string_view text : absl::StrSplit(FLAGS_writers, ',')) {
    int writers = 0;
    if (!absl::SimpleAtoi(text, &writers) || writers < 1) {
      Check(absl::InvalidArgumentError(
          absl::StrCat("--writers: '", text, "' is no positive number")));
    }
    auto store = OpenSqliteStore(path, StoreOptions());
    Check(store.status());
    const PutRate rate = MeasurePuts(**store, writers);
    absl::PrintF(
        "%3d writers: %6.0f durable puts/s = %5.2f x appended, %5.2f x in "
        "place; %.1f puts per commit; p50 %s, p99 %s\n",
        writers, rate.per_second, rate.per_second / append,
        rate.per_second / overwrite, rate.per_commit,
        absl::FormatDuration(rate.p50), absl::FormatDuration(rate.p99));
    std::fflush(stdout);
  }
  for (const absl::string_view suffix : {"", "-wal"}) {
    ::unlink(absl::StrCat(path, suffix).c_str());
  }

  const double before = ResidentMegabytes();
  {
    auto store = OpenSqliteStore(path, StoreOptions());
    Check(store.status());
    const absl::Duration start = Now();
    Fill(**store);
    absl::PrintF("filled with %d keys under %d leases in %s: %.0f MiB more\n",
                 FLAGS_keys, FLAGS_nodes, absl::FormatDuration(Now() - start),
                 ResidentMegabytes() - before);
  }
  const absl::Duration start = Now();
  auto store = OpenSqliteStore(path, StoreOptions());
  Check(store.status());
  absl::PrintF(
      "opened with %d keys and %d batches of changes in %s: %.0f MiB "
      "more\n",
      (*store)->Stats().keys, (*store)->Stats().log_batches,
      absl::FormatDuration(Now() - start), ResidentMegabytes() - before);
  for (const absl::string_view suffix : {"", "-wal"}) {
    ::unlink(absl::StrCat(path, suffix).c_str());
  }
}

}  // namespace
}  // namespace mycelium::fabric

int main(int argc, char** argv) {
  gflags::SetUsageMessage(
      "measures durable puts per second of the fabric's store");
  gflags::ParseCommandLineFlags(&argc, &argv, /*remove_flags=*/true);
  mycelium::fabric::Run();
  return 0;
}
