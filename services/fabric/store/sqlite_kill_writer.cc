// Writes to a store until it is killed, and says on standard output what has
// been acknowledged: one line "<writer> <number> <revision>" per write. For
// sqlite_kill_test.
//
//   sqlite_kill_writer PATH WRITERS SLOTS

#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "services/fabric/store/sqlite_store.h"
#include "services/fabric/store/store.h"

namespace mycelium::fabric {
namespace {

void Check(const absl::Status& status) {
  if (status.ok()) return;
  std::fprintf(stderr, "%s\n", status.ToString().c_str());
  std::_Exit(1);
}

// Makes the WAL grow so fast that many kills hit the copying of it.
constexpr size_t kPaddingBytes = 3000;

// Each writer counts up: number n goes into slot n % slots, and in the same
// transaction a counter, which it shares with another writer, goes up by
// compare-and-set.
void Write(Store& store, int64_t writer, int64_t slots) {
  const std::string counter_key = absl::StrCat("counter/", writer / 2);
  const std::string padding(kPaddingBytes, 'x');
  int64_t number = 0;
  const absl::StatusOr<RangeResponse> before =
      store.Range(RangeRequest::Prefix(absl::StrCat("writer/", writer, "/")));
  Check(before.status());
  for (const auto& entry : before->entries) {
    int64_t value = 0;
    if (!absl::SimpleAtoi(entry->value.substr(0, entry->value.find(' ')),
                          &value)) {
      Check(absl::InternalError("a slot does not begin with a number"));
    }
    number = std::max(number, value);
  }
  while (true) {
    ++number;
    while (true) {
      const absl::StatusOr<RangeResponse> counter =
          store.Range(RangeRequest::Key(counter_key));
      Check(counter.status());
      int64_t count = 0;
      int64_t revision = 0;
      if (!counter->entries.empty()) {
        revision = counter->entries[0]->mod_revision;
        if (!absl::SimpleAtoi(counter->entries[0]->value, &count)) {
          Check(absl::InternalError("the counter is no number"));
        }
      }
      const absl::StatusOr<TxnResponse> response = store.Txn(
          {.compares = {Compare::ModRevision(counter_key, revision)},
           .then_ops = {
               Op::Put(counter_key, absl::StrCat(count + 1)),
               Op::Put(absl::StrCat("writer/", writer, "/", number % slots),
                       absl::StrCat(number, " ", padding))}});
      Check(response.status());
      if (!response->succeeded) continue;
      // One write call, so that a line is whole or missing.
      const std::string line =
          absl::StrCat(writer, " ", number, " ", response->revision, "\n");
      if (::write(STDOUT_FILENO, line.data(), line.size()) < 0) std::_Exit(2);
      break;
    }
  }
}

}  // namespace
}  // namespace mycelium::fabric

int main(int argc, char** argv) {
  using namespace mycelium::fabric;  // NOLINT(google-build-using-namespace)
  int64_t writers = 0;
  int64_t slots = 0;
  if (argc != 4 || !absl::SimpleAtoi(argv[2], &writers) ||
      !absl::SimpleAtoi(argv[3], &slots)) {
    std::fprintf(stderr, "usage: %s PATH WRITERS SLOTS\n", argv[0]);
    return 2;
  }
  StoreOptions options;
  // Small enough that old changes are dropped all the time.
  options.max_log_batches = 500;
  auto store = OpenSqliteStore(argv[1], options);
  Check(store.status());
  std::vector<std::thread> threads;
  for (int64_t writer = 0; writer < writers; ++writer) {
    threads.emplace_back(
        [&store, writer, slots] { Write(**store, writer, slots); });
  }
  for (std::thread& thread : threads) thread.join();
  return 0;
}
