#include "tools/meshctl/rollout.h"

#include <memory>
#include <string>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "lib/base/clock.h"
#include "lib/base/mutex.h"
#include "lib/base/status_macros.h"
#include "tools/meshctl/console.h"
#include "tools/meshctl/failure.h"
#include "tools/meshctl/mesh_client.h"
#include "tools/meshctl/views.h"

namespace mycelium::meshctl {
namespace {

using fabric::v1::Slot;

constexpr absl::Duration kPoll = absl::Milliseconds(100);
// When the plan does not say.
constexpr absl::Duration kProgressDeadline = absl::Seconds(60);

std::string SlotKey(const Slot& slot) {
  return absl::StrCat(slot.index(), "/", slot.generation());
}

// `APP/INDEX/GENERATION` as `INDEX/GENERATION`.
std::string SlotKey(const std::string& deletion) {
  const size_t slash = deletion.find('/');
  return slash == std::string::npos ? deletion : deletion.substr(slash + 1);
}

// The slots of an app as a watch reports them.
class SlotMirror {
 public:
  void Take(fabric_client::WatchUpdate<Slot> update) {
    const MutexLock lock(mutex_);
    if (update.reset) slots_.clear();
    for (Slot& slot : update.puts) {
      std::string key = SlotKey(slot);
      slots_[std::move(key)] = std::move(slot);
    }
    for (const std::string& key : update.deletes) slots_.erase(SlotKey(key));
    revision_ = update.revision;
    synced_ = true;
    fresh_ = true;
    changed_.NotifyAll();
  }

  // Waits a moment for a change, and returns what is known; nothing before the
  // first snapshot of at least `revision`.
  bool Wait(int64_t revision, Slots& slots) {
    const MutexLock lock(mutex_);
    if (!fresh_) changed_.WaitFor(mutex_, kPoll);
    fresh_ = false;
    if (!synced_ || revision_ < revision) return false;
    slots = slots_;
    return true;
  }

 private:
  Mutex mutex_;
  CondVar changed_;
  Slots slots_ ABSL_GUARDED_BY(mutex_);
  int64_t revision_ ABSL_GUARDED_BY(mutex_) = 0;
  bool synced_ ABSL_GUARDED_BY(mutex_) = false;
  bool fresh_ ABSL_GUARDED_BY(mutex_) = false;
};

// A slot and what holds it up: `billing/1 on node-2 is starting: waiting for
// GET /health`.
std::string Described(const Slot& slot) {
  std::string text = absl::StrCat(slot.app_name(), "/", slot.index());
  if (!slot.node_id().empty()) absl::StrAppend(&text, " on ", slot.node_id());
  absl::StrAppend(&text, " is ", StateWord(Slot::State_Name(slot.state())));
  if (!slot.reason().empty()) absl::StrAppend(&text, " (", slot.reason(), ")");
  if (!slot.message().empty()) absl::StrAppend(&text, ": ", slot.message());
  return text;
}

Json SlotEvent(const Slot& slot) {
  Json json = Json::Object();
  json.Set("type", "slot")
      .Set("appName", slot.app_name())
      .Set("index", slot.index())
      .Set("generation", slot.generation())
      .Set("state", Slot::State_Name(slot.state()))
      .Set("reason", slot.reason())
      .Set("message", slot.message())
      .Set("nodeID", slot.node_id())
      .Set("instanceId", slot.instance_id());
  return json;
}

// Prints a line for each slot of the generation whose state changed.
void TellChanges(Console& console, const Slots& before, const Slots& now,
                 int64_t generation) {
  for (const auto& [key, slot] : now) {
    if (slot.generation() != generation) continue;
    const auto old = before.find(key);
    if (old != before.end() && old->second.state() == slot.state() &&
        old->second.reason() == slot.reason()) {
      continue;
    }
    const Cell state = StateCell(slot.state());
    const std::string glyph =
        state.tone == Tone::kGood  ? console.Glyph("●", "*")
        : state.tone == Tone::kBad ? console.Bad()
                                   : console.Glyph("◐", "~");
    console.Progress(absl::StrCat("  ", console.ToneErr(glyph, state.tone), " ",
                                  Described(slot)),
                     SlotEvent(slot));
  }
}

std::string EndedHow(const agent::v1::ExitStatus& exit) {
  if (exit.out_of_memory()) return "was killed for memory";
  if (exit.has_signal()) {
    return absl::StrCat("was killed by signal ", exit.signal());
  }
  if (exit.has_code()) return absl::StrCat("exited ", exit.code());
  return "ended";
}

// Adds what the agent knows of a failed instance: how it ended, and its last
// lines.
void AddOutput(MeshClient& mesh, const Slot& slot, Failure& failure) {
  const auto nodes = mesh.ListNodes();
  if (!nodes.ok()) return;
  for (const fabric::v1::Node& node : nodes->items) {
    if (node.node_id() != slot.node_id()) continue;
    const auto instances = mesh.ListInstances(node.address(), slot.app_name());
    if (!instances.ok()) return;
    for (const agent::v1::Instance& instance : *instances) {
      if (instance.instance_id() != slot.instance_id() ||
          !instance.has_last_exit()) {
        continue;
      }
      absl::StrAppend(&failure.why, failure.why.empty() ? "" : "; ",
                      slot.instance_id(), " ", EndedHow(instance.last_exit()));
      failure.output.assign(instance.last_exit().last_lines().begin(),
                            instance.last_exit().last_lines().end());
    }
  }
}

absl::Status FailureOf(MeshClient& mesh, const fabric::v1::Plan& plan,
                       int wanted, const RolloutView& view) {
  Failure failure;
  failure.more = absl::StrCat("meshctl why ", plan.app_name());
  failure.why = view.text;
  const std::string progress =
      absl::StrCat(view.ready, " of ", wanted, " instances are ready");
  switch (view.state) {
    case RolloutView::State::kNoRoom:
      failure.exit = ExitCode::kNoCapacity;
      failure.message =
          absl::StrCat("no room for ", plan.app_name(), ": ", progress,
                       "; the plan stays and is placed "
                       "when there is");
      failure.fixes = {"see what nodes have left:  meshctl nodes"};
      break;
    case RolloutView::State::kSuperseded:
      failure.exit = ExitCode::kConflict;
      failure.message = absl::StrCat(
          "the plan of ", plan.app_name(),
          " was replaced by another one before its instances were ready");
      break;
    case RolloutView::State::kFailed:
      failure.exit = ExitCode::kRolloutFailed;
      failure.message = absl::StrCat("instances of ", plan.app_name(),
                                     " do not come up: ", progress);
      failure.fixes = {absl::StrCat("see all it wrote:  meshctl logs ",
                                    plan.app_name(), " --previous")};
      AddOutput(mesh, view.culprit, failure);
      break;
    default:
      failure.exit = ExitCode::kTimeout;
      failure.message = absl::StrCat("the time is up: ", progress, " of ",
                                     plan.app_name(), ", and it goes on");
      failure.fixes = {
          absl::StrCat("look again:  meshctl status ", plan.app_name())};
      if (!view.culprit.instance_id().empty()) {
        AddOutput(mesh, view.culprit, failure);
      }
      break;
  }
  return ToStatus(failure);
}

}  // namespace

RolloutView JudgeRollout(const Slots& slots, int64_t generation, int wanted) {
  RolloutView view;
  int there = 0;
  int without_room = 0;
  const Slot* waiting = nullptr;
  const Slot* failed = nullptr;
  const Slot* roomless = nullptr;
  for (const auto& [key, slot] : slots) {
    if (slot.generation() > generation && !slot.surplus()) {
      view.state = RolloutView::State::kSuperseded;
      view.text = absl::StrCat("generation ", slot.generation(), " is there, ",
                               generation, " was followed");
      return view;
    }
    if (slot.generation() != generation || slot.surplus()) continue;
    ++there;
    view.claimed += slot.instance_id().empty() ? 0 : 1;
    if (slot.state() == Slot::STATE_READY) {
      ++view.ready;
    } else if (slot.state() == Slot::STATE_REFUSED ||
               slot.reason() == "CRASHLOOP") {
      failed = &slot;
    } else if (slot.state() == Slot::STATE_PENDING &&
               (slot.reason() == "NO_CAPACITY" || slot.reason() == "NO_NODE" ||
                slot.reason() == "BUDGET_EXCEEDED")) {
      ++without_room;
      roomless = &slot;
    } else if (waiting == nullptr || waiting->instance_id().empty()) {
      // One that an agent has says more than one that nobody has.
      waiting = &slot;
    }
  }
  if (view.ready >= wanted) {
    view.state = RolloutView::State::kReady;
    return view;
  }
  if (failed != nullptr) {
    view.state = RolloutView::State::kFailed;
    view.culprit = *failed;
    view.text = Described(*failed);
  } else if (roomless != nullptr && view.ready + without_room >= there) {
    view.state = RolloutView::State::kNoRoom;
    view.culprit = *roomless;
    view.text = Described(*roomless);
  } else if (waiting != nullptr) {
    view.culprit = *waiting;
    view.text = Described(*waiting);
  } else if (there < wanted) {
    view.text = absl::StrCat("the fabric has asked for ", there, " of ", wanted,
                             " instances");
  }
  return view;
}

absl::Status FollowRollout(MeshClient& mesh, Console& console,
                           const fabric::v1::Plan& plan, int wanted,
                           const FollowOptions& options) {
  Clock& clock = *Clock::Real();
  const absl::Duration start = clock.Monotonic();
  SlotMirror mirror;
  MYC_ASSIGN_OR_RETURN(
      const MeshClient::Watch watch,
      mesh.WatchSlots(plan.app_name(),
                      [&mirror](fabric_client::WatchUpdate<Slot> update) {
                        mirror.Take(std::move(update));
                      }));

  // The deadline is the plan's own; what it says is what the fabric does, too.
  const absl::Duration progress_deadline =
      plan.strategy().has_progress_deadline()
          ? absl::Seconds(plan.strategy().progress_deadline().seconds()) +
                absl::Nanoseconds(plan.strategy().progress_deadline().nanos())
          : kProgressDeadline;
  Slots before;
  RolloutView view;
  absl::Duration room_at = start;
  absl::Duration progress_at = start;
  int best = -1;
  while (true) {
    if (options.cancelled != nullptr && *options.cancelled) {
      return absl::CancelledError("interrupted");
    }
    const absl::Duration elapsed = clock.Monotonic() - start;
    Slots slots;
    if (mirror.Wait(plan.revision(), slots)) {
      TellChanges(console, before, slots, plan.generation());
      view = JudgeRollout(slots, plan.generation(), wanted);
      before = std::move(slots);
    } else if (view.text.empty()) {
      view.text = "the fabric has not answered yet";
    }
    if (view.state == RolloutView::State::kReady) return absl::OkStatus();
    // Starting again and again is no progress: only more of it is.
    if (view.claimed + view.ready > best) {
      best = view.claimed + view.ready;
      progress_at = clock.Monotonic();
    }
    if (view.state == RolloutView::State::kWaiting &&
        clock.Monotonic() - progress_at >= progress_deadline) {
      view.state = RolloutView::State::kFailed;
      view.text =
          absl::StrCat("no progress for ", ShortDuration(progress_deadline),
                       ": ", view.text);
    }
    if (view.state != RolloutView::State::kNoRoom) room_at = clock.Monotonic();
    const bool hopeless =
        view.state == RolloutView::State::kFailed ||
        view.state == RolloutView::State::kSuperseded ||
        (view.state == RolloutView::State::kNoRoom &&
         clock.Monotonic() - room_at >= options.no_room_patience);
    if (hopeless) return FailureOf(mesh, plan, wanted, view);
    if (elapsed >= options.timeout) {
      if (view.state == RolloutView::State::kNoRoom) {
        return FailureOf(mesh, plan, wanted, view);
      }
      view.state = RolloutView::State::kWaiting;
      return FailureOf(mesh, plan, wanted, view);
    }
    console.Transient(absl::StrFormat(
        "%s %d/%d ready, %s of %s   waiting: %s", plan.app_name(), view.ready,
        wanted, ShortDuration(elapsed), ShortDuration(options.timeout),
        view.text));
  }
}

absl::Status FollowRemoval(MeshClient& mesh, Console& console,
                           const std::string& app, absl::Duration timeout) {
  Clock& clock = *Clock::Real();
  const absl::Duration start = clock.Monotonic();
  SlotMirror mirror;
  MYC_ASSIGN_OR_RETURN(
      const MeshClient::Watch watch,
      mesh.WatchSlots(app, [&mirror](fabric_client::WatchUpdate<Slot> update) {
        mirror.Take(std::move(update));
      }));
  size_t left = 0;
  while (clock.Monotonic() - start < timeout) {
    Slots slots;
    if (!mirror.Wait(0, slots)) continue;
    // Slots that nobody fills go without anybody's help.
    left = 0;
    for (const auto& [key, slot] : slots)
      left += slot.node_id().empty() ? 0 : 1;
    if (left == 0) return absl::OkStatus();
    console.Transient(absl::StrFormat(
        "%s: %d instances left to stop, %s of %s", app, left,
        ShortDuration(clock.Monotonic() - start), ShortDuration(timeout)));
  }
  return ToStatus(
      {.exit = ExitCode::kTimeout,
       .message = absl::StrCat("the time is up: ", left, " instances of ", app,
                               " have not stopped yet"),
       .fixes = {absl::StrCat("look again:  meshctl endpoints ", app)}});
}

}  // namespace mycelium::meshctl
