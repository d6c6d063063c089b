#include "tools/meshctl/testing.h"

#include <map>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "lib/base/clock.h"
#include "lib/base/mutex.h"
#include "tools/meshctl/session.h"

namespace mycelium::meshctl {
namespace {

class StringSink final : public Sink {
 public:
  void Write(absl::string_view text) override {
    const MutexLock lock(mutex_);
    absl::StrAppend(&text_, text);
  }
  bool IsTerminal() const override { return false; }

  std::string text() const {
    const MutexLock lock(mutex_);
    return text_;
  }

 private:
  mutable Mutex mutex_;
  std::string text_ ABSL_GUARDED_BY(mutex_);
};

// The time of day stands still, so that what is printed does not change;
// waiting goes on.
class StoppedClock final : public Clock {
 public:
  absl::Time Now() override { return absl::FromUnixSeconds(1769904000); }
  absl::Duration Monotonic() override { return Clock::Real()->Monotonic(); }
};

}  // namespace

Outcome RunWords(const std::vector<std::string>& words,
                 const std::map<std::string, std::string>& variables,
                 const std::string& directory) {
  StringSink out;
  StringSink err;
  StoppedClock clock;
  Environment environment;
  environment.variables = Variables(variables);
  environment.directory = directory;
  environment.program = directory + "/meshctl";
  environment.clock = &clock;
  environment.out = &out;
  environment.err = &err;
  Outcome outcome;
  outcome.code = RunMeshctl(words, environment);
  outcome.out = out.text();
  outcome.err = err.text();
  return outcome;
}

}  // namespace mycelium::meshctl
