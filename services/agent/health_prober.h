#ifndef SERVICES_AGENT_HEALTH_PROBER_H_
#define SERVICES_AGENT_HEALTH_PROBER_H_

#include <cstdint>
#include <deque>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <string>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "lib/base/clock.h"
#include "lib/base/file.h"
#include "lib/base/mutex.h"

namespace mycelium::agent {

// What to ask.
struct ProbeTarget {
  int32_t port = 0;
  // Path of a GET that must be answered by a 2xx; empty: it is enough that a
  // connection is accepted.
  std::string path;
};

// Asks instances whether they are healthy. Thread-safe.
class HealthProber {
 public:
  // Whether the probe succeeded, and what was seen, in words.
  using Callback = std::function<void(bool success, std::string detail)>;

  virtual ~HealthProber() = default;

  // Sends one probe. `callback` is called once, soon after `timeout` at the
  // latest, on a thread of the prober; never after the prober is gone.
  virtual void Probe(const ProbeTarget& target, absl::Duration timeout,
                     Callback callback) = 0;
};

// Probes over TCP: all of them on one thread, without blocking.
class SocketProber final : public HealthProber {
 public:
  // Probes ports of `host`, an IP address or a name, which is looked up once.
  // `clock` must outlive the prober.
  //
  // InvalidArgument: `host` is not known.
  static absl::StatusOr<std::unique_ptr<SocketProber>> Start(
      const std::string& host, Clock* clock);

  // Probes that are under way are forgotten.
  ~SocketProber() override;

  void Probe(const ProbeTarget& target, absl::Duration timeout,
             Callback callback) override;

 private:
  struct Exchange;
  struct Address;

  SocketProber(std::unique_ptr<Address> address, Clock* clock, UniqueFd epoll,
               UniqueFd wake);

  void Run();
  void TakeNew();
  void Begin(std::unique_ptr<Exchange> exchange);
  // Goes on with an exchange as far as it can. False when it is over.
  bool Advance(Exchange& exchange, bool writable);
  // Reports once; what follows is only read so that the instance is not cut off
  // in the middle of its answer.
  void Report(Exchange& exchange, bool success, absl::string_view detail);
  void ExpireOld();

  const std::unique_ptr<Address> address_;
  Clock& clock_;
  const UniqueFd epoll_;
  const UniqueFd wake_;

  // Used by the thread alone. By descriptor.
  std::map<int, std::unique_ptr<Exchange>> exchanges_;

  Mutex mutex_;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::deque<std::unique_ptr<Exchange>> new_ ABSL_GUARDED_BY(mutex_);

  std::thread thread_;
};

}  // namespace mycelium::agent

#endif  // SERVICES_AGENT_HEALTH_PROBER_H_
