#ifndef SERVICES_EDGE_LIFETIME_H_
#define SERVICES_EDGE_LIFETIME_H_

#include <functional>
#include <memory>
#include <string>
#include <thread>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "lib/base/clock.h"
#include "lib/base/file.h"
#include "services/edge/edge.h"
#include "services/edge/handover.h"
#include "services/edge/service_manager.h"

namespace mycelium::edge {

// Blocks the signals that a Lifetime takes, in this thread and in those that it
// starts, and ignores SIGPIPE. Call it before anything starts a thread.
void BlockLifetimeSignals();

// From a serving edge to its orderly end: what signals ask for. SIGTERM and
// SIGINT drain; SIGHUP and SIGUSR2 start the program again and hand over to it.
// Belongs to the main thread.
class Lifetime {
 public:
  struct Options {
    Program program;
    std::string pid_file;  // Empty: none.
    absl::Duration lame_duck;
    // For a successor to be ready.
    absl::Duration handover_timeout = absl::Seconds(30);
    // What a successor is to get. Called before each attempt.
    std::function<absl::StatusOr<Heritage>()> heritage;
    // Called when an attempt has failed.
    std::function<void()> handover_failed;
    // Called when the successor serves.
    std::function<void()> handed_over;
  };

  // `edge` and `clock` must outlive the object. The signals must be blocked.
  static absl::StatusOr<std::unique_ptr<Lifetime>> Create(Options options,
                                                          Edge* edge,
                                                          Clock* clock);
  ~Lifetime();

  Lifetime(const Lifetime&) = delete;
  Lifetime& operator=(const Lifetime&) = delete;

  // Makes this process the one that serves. `predecessor` is asked first,
  // unless it is null.
  //
  // Cancelled: a signal came first. Unavailable: the predecessor goes on.
  absl::Status Begin(Predecessor* predecessor);

  // Returns when the edge has drained.
  void Serve();

 private:
  enum class State {
    kServing,
    kLameDuck,
    kHandedOver,
    kDraining,
  };

  Lifetime(Options options, Edge* edge, Clock* clock, UniqueFd signals,
           UniqueFd drained);

  // The next signal that has arrived, or 0.
  int TakeSignal();
  void OnSignal(int signal);
  void OnStop(int signal);
  void OnUpgrade(int signal);
  void StartSuccessor();
  void OnSuccessor();
  void OnHandoverFailed(const absl::Status& status);
  void Drain();
  // Makes `drained_` readable when the edge has ended.
  void AwaitEnd();
  int PollTimeoutMs() const;

  Options options_;
  Edge& edge_;
  Clock& clock_;
  const UniqueFd signals_;
  const UniqueFd drained_;
  PidFile pid_file_;
  State state_ = State::kServing;
  std::unique_ptr<Successor> successor_;
  bool upgrade_again_ = false;  // Asked for while an attempt was under way.
  int stop_afterwards_ = 0;     // A signal that waits for the attempt's end.
  absl::Duration lame_duck_until_;
  std::thread joiner_;
};

}  // namespace mycelium::edge

#endif  // SERVICES_EDGE_LIFETIME_H_
