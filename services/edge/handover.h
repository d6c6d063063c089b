// How a running edge gives its place to a new process of the same program, and
// loses no connection by it.
//
// The old process starts the new one with one end of a socket pair and sends
// its heritage: descriptors of the listening sockets, so that both processes
// have the same queues of connections. Then
//
//   new to old  ready      it could serve now
//   old to new  go         from here on the new one may accept
//   new to old  accepting  the old one drains
//
// Until `accepting` the old process serves as ever, and whatever goes wrong
// ends the new one. Messages that one side does not know are skipped, so that
// versions may differ.

#ifndef SERVICES_EDGE_HANDOVER_H_
#define SERVICES_EDGE_HANDOVER_H_

#include <sys/types.h>

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "lib/base/clock.h"
#include "lib/base/file.h"
#include "services/edge/listen_sockets.h"

namespace mycelium::edge {

// What a process passes on.
struct Heritage {
  // By what they are for: "http", "https".
  std::map<std::string, ListenSockets> listeners;
  std::string edge_id;
  // Where the old process serves gRPC; empty if it does not.
  std::string grpc_address;
  // At its end once no process is known by `edge_id` to the fabric any more.
  // May be invalid.
  UniqueFd name_free;
};

// How to start a program.
struct Program {
  std::string path;
  std::vector<std::string> arguments;  // The first is its name.

  // How this process was started. The path is the one that was executed, links
  // not followed, so that it names the program that is there now.
  static Program OfThisProcess(int argc, char** argv);
};

// The old process's side: a new process. Not thread-safe.
class Successor {
 public:
  enum class State {
    kStarting,
    kAccepting,  // It has taken over.
    kFailed,     // See failure(); it is gone.
  };

  // Starts `program` and gives it `heritage`. It has `timeout` to be ready.
  // `clock` must outlive the object.
  static absl::StatusOr<std::unique_ptr<Successor>> Start(
      const Program& program, const Heritage& heritage, absl::Duration timeout,
      Clock* clock);

  // Kills the process unless it has taken over.
  ~Successor();

  Successor(const Successor&) = delete;
  Successor& operator=(const Successor&) = delete;

  // Looks at what has come, without waiting. Called when fd() is readable, and
  // when time_left() is over.
  State Advance();

  int fd() const { return channel_.get(); }
  absl::Duration time_left() const;
  // Whether it was told to go.
  bool may_accept() const { return was_ready_; }
  pid_t pid() const { return pid_; }
  const absl::Status& failure() const { return failure_; }

 private:
  Successor(UniqueFd channel, pid_t pid, absl::Duration timeout, Clock* clock);

  State Fail(absl::Status status);
  // Ends the process and says how it ended.
  std::string Reap();

  UniqueFd channel_;
  const pid_t pid_;
  Clock& clock_;
  absl::Duration timeout_;
  absl::Duration deadline_;
  State state_ = State::kStarting;
  bool gone_ = false;    // The process; nothing may be sent to its id any more.
  bool closed_ = false;  // Its end of the channel.
  bool was_ready_ = false;
  absl::Status failure_;
};

// The new process's side: the old one. Not thread-safe.
class Predecessor {
 public:
  // Null if this process was not started by another one. Forgets what the
  // environment says of it.
  static absl::StatusOr<std::unique_ptr<Predecessor>> FromEnvironment();

  // Called first, once.
  absl::StatusOr<Heritage> TakeHeritage();

  // Says that this process is ready.
  absl::Status SayReady();
  // Whether it was told to go; never waits. Unavailable: the old process is
  // gone, or has given up.
  absl::StatusOr<bool> MayGo();
  absl::Status SayAccepting();

  int fd() const { return channel_.get(); }

 private:
  explicit Predecessor(UniqueFd channel) : channel_(std::move(channel)) {}

  UniqueFd channel_;
};

}  // namespace mycelium::edge

#endif  // SERVICES_EDGE_HANDOVER_H_
