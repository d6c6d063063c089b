#include "tools/meshctl/log_follower.h"

#include <algorithm>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "lib/base/clock.h"
#include "lib/base/ids.h"
#include "lib/base/mutex.h"
#include "lib/base/status_macros.h"
#include "tools/meshctl/console.h"
#include "tools/meshctl/failure.h"
#include "tools/meshctl/instances.h"
#include "tools/meshctl/log_merger.h"
#include "tools/meshctl/mesh_client.h"
#include "tools/meshctl/views.h"

namespace mycelium::meshctl {
namespace {

using agent::v1::LogLine;

constexpr absl::Duration kPatience = absl::Milliseconds(200);
constexpr absl::Duration kLookForNodes = absl::Seconds(2);

// Reads the log of one node on a thread of its own, again and again when it
// follows.
class NodeReader {
 public:
  NodeReader(MeshClient& mesh, LogMerger& merger, const LogQuery& query,
             std::string node_id, std::string address)
      : mesh_(mesh),
        merger_(merger),
        query_(query),
        node_id_(std::move(node_id)),
        address_(std::move(address)) {
    merger_.Open(node_id_);
    thread_ = std::thread([this] { Run(); });
  }
  NodeReader(const NodeReader&) = delete;
  NodeReader& operator=(const NodeReader&) = delete;
  ~NodeReader() {
    Stop();
    thread_.join();
  }

  const std::string& address() const { return address_; }

  // Whether it has come to its end.
  bool done() const { return done_; }

  // The outcome of the last try.
  absl::Status status() const {
    const MutexLock lock(mutex_);
    return status_;
  }

 private:
  void Stop() {
    const MutexLock lock(mutex_);
    stopped_ = true;
    if (stream_ != nullptr) stream_->Cancel();
    wake_.NotifyAll();
  }

  void Run() {
    while (true) {
      const absl::Status status = ReadOnce();
      const MutexLock lock(mutex_);
      status_ = status;
      if (stopped_ || !query_.follow) break;
      // An agent that restarts is back soon.
      wake_.WaitFor(mutex_, absl::Milliseconds(500));
      if (stopped_) break;
    }
    merger_.Close(node_id_);
    done_ = true;
  }

  agent::v1::GetLogsRequest Request() const {
    agent::v1::GetLogsRequest request;
    if (query_.instance.empty()) {
      request.set_app_name(query_.app);
    } else {
      request.set_instance_id(query_.instance);
    }
    request.set_follow(query_.follow);
    request.set_previous(query_.previous);
    request.set_stream(query_.stream);
    request.set_tail_lines(query_.tail_lines);
    if (query_.since > absl::InfinitePast()) {
      SetTime(query_.since, *request.mutable_since_time());
    }
    if (last_ > absl::InfinitePast()) {
      // Whatever was missed meanwhile.
      SetTime(last_, *request.mutable_since_time());
      request.set_tail_lines(-1);
      request.set_previous(false);
    }
    return request;
  }

  absl::Status ReadOnce() {
    std::unique_ptr<MeshClient::LogStream> stream;
    {
      const MutexLock lock(mutex_);
      if (stopped_) return absl::OkStatus();
      auto opened = mesh_.GetLogs(address_, Request());
      if (!opened.ok()) return opened.status();
      stream_ = *std::move(opened);
    }
    const absl::Time seen = last_;
    agent::v1::GetLogsResponse response;
    while (stream_->Read(response)) {
      for (LogLine& line : *response.mutable_lines()) {
        const absl::Time time = TimeOf(line.time());
        if (time <= seen) continue;
        last_ = std::max(last_, time);
        if (!merger_.Add(node_id_, std::move(line))) stream_->Cancel();
      }
    }
    absl::Status status = stream_->Finish();
    const MutexLock lock(mutex_);
    stream_.reset();
    return status;
  }

  MeshClient& mesh_;
  LogMerger& merger_;
  const LogQuery query_;
  const std::string node_id_;
  const std::string address_;

  // Of the newest line; used on the thread alone.
  absl::Time last_ = absl::InfinitePast();
  std::atomic<bool> done_ = false;

  mutable Mutex mutex_;
  CondVar wake_;
  // Set and reset under the mutex on the thread, which alone reads from it.
  std::unique_ptr<MeshClient::LogStream> stream_;
  bool stopped_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Status status_ ABSL_GUARDED_BY(mutex_);

  std::thread thread_;
};

using Readers = std::map<std::string, std::unique_ptr<NodeReader>>;

// Starts readers for nodes that have none, or are at another address now.
void StartReaders(MeshClient& mesh, LogMerger& merger, const LogQuery& query,
                  const std::vector<fabric::v1::Node>& nodes, bool first,
                  Readers& readers) {
  for (const fabric::v1::Node& node : nodes) {
    const auto found = readers.find(node.node_id());
    if (found != readers.end() && found->second->address() == node.address()) {
      continue;
    }
    LogQuery of_node = query;
    // On a node that came later everything is new.
    if (!first) of_node.tail_lines = -1;
    if (found != readers.end()) readers.erase(found);
    readers[node.node_id()] = std::make_unique<NodeReader>(
        mesh, merger, of_node, node.node_id(), node.address());
  }
}

// What went wrong if no node could answer.
absl::Status Outcome(const Readers& readers, const LogQuery& query,
                     bool any_line) {
  if (any_line) return absl::OkStatus();
  absl::Status unreachable;
  size_t without = 0;
  for (const auto& [node, reader] : readers) {
    const absl::Status status = reader->status();
    if (status.ok()) return absl::OkStatus();
    if (absl::IsNotFound(status)) {
      ++without;
    } else {
      unreachable = status;
    }
  }
  if (without < readers.size()) return unreachable;
  const std::string what =
      query.instance.empty()
          ? absl::StrCat("app ", Quoted(query.app))
          : absl::StrCat("instance ", Quoted(query.instance));
  return ToStatus(
      {.exit = ExitCode::kNotFound,
       .message = absl::StrCat("no node has run ", what),
       .fixes = {"see what runs:  meshctl instances",
                 "wait for it:  meshctl logs " + query.app + " --follow"}});
}

}  // namespace

absl::Status ReadLogs(
    MeshClient& mesh, Console& console, const LogQuery& query,
    const std::atomic<bool>* cancelled,
    const std::function<void(const std::string&, const LogLine&)>& show) {
  Clock& clock = *Clock::Real();
  MYC_ASSIGN_OR_RETURN(std::vector<fabric::v1::Node> nodes,
                       ReachableNodes(mesh));
  // Without `follow` every stream ends by itself, and all are waited for.
  LogMerger merger(&clock, query.follow ? kPatience : absl::Seconds(30));
  Readers readers;
  StartReaders(mesh, merger, query, nodes, true, readers);

  bool any_line = false;
  bool planned = false;
  absl::Duration looked = clock.Monotonic();
  while (cancelled == nullptr || !*cancelled) {
    if (const auto next = merger.Next(absl::Milliseconds(100))) {
      any_line = true;
      show(next->source, next->line);
      continue;
    }
    if (!query.follow) {
      if (merger.drained()) break;
      continue;
    }
    if (clock.Monotonic() - looked < kLookForNodes) continue;
    looked = clock.Monotonic();
    // While the fabric is away, those that are known are followed.
    if (const auto found = ReachableNodes(mesh); found.ok()) {
      StartReaders(mesh, merger, query, *found, false, readers);
    }
    const absl::Status plan = mesh.GetPlan(query.app).status();
    if (plan.ok()) planned = true;
    if (absl::IsNotFound(plan) && planned) {
      const auto slots = mesh.ListSlots(query.app);
      if (slots.ok() && slots->items.empty()) {
        console.Note(absl::StrCat("--- ", query.app, " is gone ---"));
        break;
      }
    }
  }
  merger.CloseAll();
  absl::Status outcome =
      query.follow ? absl::OkStatus() : Outcome(readers, query, any_line);
  readers.clear();
  return outcome;
}

std::string LogText(const Console& console, const std::string& node,
                    const LogLine& line, bool full_time) {
  // The last part of an id tells instances of one app apart.
  std::string id = line.instance_id();
  const size_t dash = id.rfind('-');
  if (dash != std::string::npos) id = id.substr(dash + 1);
  const std::string who = absl::StrCat(node, "/", id);
  const absl::Time time = TimeOf(line.time());
  const std::string when =
      full_time || !console.out_is_terminal()
          ? absl::FormatTime("%Y-%m-%dT%H:%M:%E3SZ", time, absl::UTCTimeZone())
          : absl::FormatTime("%H:%M:%E3S", time, absl::LocalTimeZone());
  const Tone tone = line.stream() == LogLine::STREAM_STDERR  ? Tone::kBusy
                    : line.stream() == LogLine::STREAM_AGENT ? Tone::kFaint
                                                             : Tone::kPlain;
  const std::string text = line.stream() == LogLine::STREAM_AGENT
                               ? absl::StrCat("--- ", line.text(), " ---")
                               : line.text();
  return absl::StrCat(console.ToneOut(who, Tone::kFaint), "  ", when, "  ",
                      console.ToneOut(text, tone));
}

}  // namespace mycelium::meshctl
