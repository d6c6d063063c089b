// Following a plan until its instances are ready.

#ifndef TOOLS_MESHCTL_ROLLOUT_H_
#define TOOLS_MESHCTL_ROLLOUT_H_

#include <atomic>
#include <map>
#include <string>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "mycelium/fabric/v1/fabric.pb.h"

namespace mycelium::meshctl {

class Console;
class MeshClient;

// The slots of an app by `INDEX/GENERATION`.
using Slots = std::map<std::string, fabric::v1::Slot>;

// How far the slots of one generation of a plan are.
struct RolloutView {
  enum class State {
    kWaiting,
    kReady,
    // An instance fails so that waiting makes no sense: CRASHLOOP, or refused.
    kFailed,
    // What is missing cannot be placed for now.
    kNoRoom,
    // A later generation of the plan is there.
    kSuperseded,
  };
  State state = State::kWaiting;
  int ready = 0;
  int claimed = 0;  // Those that are ready included.
  // What is waited for, or what went wrong, in words.
  std::string text;
  // The slot that this is about, if it is about one.
  fabric::v1::Slot culprit;
};

// Judges `slots` against the wish for `wanted` instances of `generation`.
// Pure.
RolloutView JudgeRollout(const Slots& slots, int64_t generation, int wanted);

struct FollowOptions {
  absl::Duration timeout = absl::Minutes(5);
  // How long nothing may be placeable before that is the answer.
  absl::Duration no_room_patience = absl::Seconds(10);
  // Ends the following with Cancelled; may be null.
  const std::atomic<bool>* cancelled = nullptr;
};

// Waits until `wanted` instances of the plan are ready, telling on `console`
// what happens. `plan` is as the fabric stored it.
//
// Failures: ROLLOUT_FAILED with the last output of the instance, also when the
// plan's progress deadline passes without progress; NO_CAPACITY; CONFLICT when
// the plan was replaced meanwhile; TIMEOUT.
absl::Status FollowRollout(MeshClient& mesh, Console& console,
                           const fabric::v1::Plan& plan, int wanted,
                           const FollowOptions& options);

// Waits until no slot of the app is left. TIMEOUT.
absl::Status FollowRemoval(MeshClient& mesh, Console& console,
                           const std::string& app, absl::Duration timeout);

}  // namespace mycelium::meshctl

#endif  // TOOLS_MESHCTL_ROLLOUT_H_
