#ifndef SERVICES_AGENT_LOG_PUMP_H_
#define SERVICES_AGENT_LOG_PUMP_H_

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "lib/base/clock.h"
#include "lib/base/file.h"
#include "lib/base/mutex.h"
#include "services/agent/log_store.h"

namespace mycelium::agent {

// Reads the stdout and stderr of all instances on one thread and hands the
// lines to the log store, so that no instance ever waits for its log.
// Thread-safe.
class LogPump {
 public:
  // How many of the last lines of stderr Finish returns.
  static constexpr size_t kLastLines = 20;

  // `store` and `clock` must outlive the pump.
  static absl::StatusOr<std::unique_ptr<LogPump>> Start(LogStore* store,
                                                        Clock* clock);

  // Stops reading; pipes that are still followed are closed.
  ~LogPump();

  // Follows the read ends of the pipes of one run of an instance.
  void Add(const std::string& instance_id, int64_t run, UniqueFd out,
           UniqueFd err);

  // Takes what is left in the pipes of a run that has ended, closes them, and
  // returns the last lines that it wrote to stderr, as valid UTF-8. Does not
  // wait for their end: a daemon that the instance left may hold them open.
  std::vector<std::string> Finish(const std::string& instance_id, int64_t run);

 private:
  struct Pipe;
  struct Finishing;

  LogPump(LogStore* store, Clock* clock, UniqueFd epoll, UniqueFd wake);

  void Run();
  void TakeCommands();
  // Reads what is there, `max_bytes` at most. False at the end of the pipe.
  bool Drain(Pipe& pipe, size_t max_bytes);
  void Take(Pipe& pipe, absl::string_view bytes);
  void Flush(Pipe& pipe);
  void Wake();

  LogStore& store_;
  Clock& clock_;
  const UniqueFd epoll_;
  const UniqueFd wake_;

  // Used by the thread alone. By descriptor.
  std::map<int, std::unique_ptr<Pipe>> pipes_;
  std::string buffer_;

  Mutex mutex_;
  CondVar done_;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::deque<std::unique_ptr<Pipe>> added_ ABSL_GUARDED_BY(mutex_);
  std::deque<Finishing*> finishing_ ABSL_GUARDED_BY(mutex_);

  std::thread thread_;
};

}  // namespace mycelium::agent

#endif  // SERVICES_AGENT_LOG_PUMP_H_
