// The real program with its SQLite store, killed with SIGKILL again and again
// while clients write and watch: no acknowledged write is lost, and a watch
// that resumes gets exactly what it missed.

#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "grpcpp/grpcpp.h"
#include "gtest/gtest.h"
#include "lib/base/error.h"
#include "lib/base/file.h"
#include "lib/base/mutex.h"
#include "lib/rpc/channel.h"
#include "lib/rpc/status.h"
#include "mycelium/fabric/v1/fabric.grpc.pb.h"

extern char** environ;

namespace mycelium::fabric {
namespace {

constexpr int kRounds = 12;
constexpr int kWriters = 3;
constexpr char kProgram[] = "services/fabric/fabric";

// A fabric process in a directory of its own; it keeps its port over restarts.
class Process {
 public:
  explicit Process(std::string directory) : directory_(std::move(directory)) {}
  ~Process() { End(SIGKILL); }

  // Starts the program and waits until it serves. False if it does not.
  bool Start() {
    const std::string port_file = JoinPath(directory_, "port");
    ::unlink(port_file.c_str());
    std::vector<std::string> words = {
        kProgram,
        absl::StrCat("--listen=", address_.empty() ? "127.0.0.1:0" : address_),
        absl::StrCat("--port_file=", port_file),
        absl::StrCat("--data_dir=", JoinPath(directory_, "data"))};
    std::vector<char*> argv;
    for (std::string& word : words) argv.push_back(word.data());
    argv.push_back(nullptr);
    if (::posix_spawn(&pid_, kProgram, nullptr, nullptr, argv.data(),
                      environ) != 0) {
      pid_ = -1;
      return false;
    }
    const absl::Time deadline = absl::Now() + absl::Seconds(20);
    while (absl::Now() < deadline) {
      const absl::StatusOr<std::string> text = ReadFile(port_file);
      if (text.ok()) {
        address_ = std::string(absl::StripSuffix(*text, "\n"));
        return true;
      }
      if (::waitpid(pid_, nullptr, WNOHANG) == pid_) {
        pid_ = -1;
        return false;
      }
      absl::SleepFor(absl::Milliseconds(2));
    }
    return false;
  }

  // Ends the program by a signal; returns what waitpid() says.
  int End(int signal) {
    if (pid_ <= 0) return 0;
    int status = 0;
    ::kill(pid_, signal);
    ::waitpid(pid_, &status, 0);
    pid_ = -1;
    return status;
  }

  const std::string& address() const { return address_; }

 private:
  const std::string directory_;
  std::string address_;
  pid_t pid_ = -1;
};

std::unique_ptr<v1::Fabric::Stub> Connect(const Process& process) {
  return v1::Fabric::NewStub(*rpc::Connect(process.address(), {}));
}

v1::PutPlanRequest PlanRequest(const std::string& app, int max) {
  v1::PutPlanRequest request;
  request.mutable_plan()->set_app_name(app);
  request.mutable_plan()->set_digest(std::string(64, 'a'));
  request.mutable_plan()->set_max(max);
  return request;
}

// What a client of WatchPlans knows, fed over any number of connections.
class Follower {
 public:
  // Follows until the connection breaks. Returns whether it got anything.
  bool Follow(v1::Fabric::Stub& stub) {
    v1::WatchPlansRequest request;
    {
      MutexLock lock(mutex_);
      request.set_epoch(epoch_);
      request.set_after_revision(revision_);
    }
    grpc::ClientContext context;
    context.set_wait_for_ready(true);
    rpc::SetDeadline(context, absl::Seconds(60));
    auto reader = stub.WatchPlans(&context, request);
    v1::WatchPlansResponse message;
    bool any = false;
    while (reader->Read(&message)) {
      any = true;
      MutexLock lock(mutex_);
      Take(message);
      if (stopping_) context.TryCancel();
    }
    reader->Finish();
    return any;
  }

  void Stop() {
    MutexLock lock(mutex_);
    stopping_ = true;
  }
  bool stopping() {
    MutexLock lock(mutex_);
    return stopping_;
  }
  int64_t revision() {
    MutexLock lock(mutex_);
    return revision_;
  }
  int resyncs() {
    MutexLock lock(mutex_);
    return resyncs_;
  }
  std::map<std::string, v1::Plan> plans() {
    MutexLock lock(mutex_);
    return plans_;
  }

 private:
  void Take(const v1::WatchPlansResponse& message)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (message.kind() == v1::WATCH_KIND_RESYNC) {
      ++resyncs_;
      return;
    }
    for (const v1::PlanChange& change : message.changes()) {
      if (change.has_put()) {
        // Nothing comes twice, and nothing goes back.
        EXPECT_GT(change.put().revision(),
                  plans_[change.put().app_name()].revision());
        plans_[change.put().app_name()] = change.put();
      } else {
        plans_.erase(change.delete_().key());
      }
    }
    if (message.kind() == v1::WATCH_KIND_SNAPSHOT) return;
    EXPECT_GE(message.revision(), revision_);
    revision_ = message.revision();
    epoch_ = message.epoch();
  }

  Mutex mutex_;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::string epoch_ ABSL_GUARDED_BY(mutex_);
  int64_t revision_ ABSL_GUARDED_BY(mutex_) = 0;
  int resyncs_ ABSL_GUARDED_BY(mutex_) = 0;
  std::map<std::string, v1::Plan> plans_ ABSL_GUARDED_BY(mutex_);
};

TEST(FabricProcessTest, KeepsItsPromisesThroughKills) {
  const TempDirectory directory = *TempDirectory::Create("fabric-process-");
  Process process(directory.path());
  ASSERT_TRUE(process.Start());

  Follower follower;
  std::thread following([&] {
    const auto stub = Connect(process);
    while (!follower.stopping()) follower.Follow(*stub);
  });

  // Each writer counts up the `max` of plans of its own. An answer that got
  // lost leaves it unknown whether the write was done; one that came does not.
  std::atomic<bool> stop = false;
  std::vector<std::map<std::string, int>> acknowledged(kWriters);
  std::atomic<int> total = 0;
  std::vector<std::thread> writers;
  for (int w = 0; w < kWriters; ++w) {
    writers.emplace_back([&, w] {
      const auto stub = Connect(process);
      for (int n = 0; !stop; ++n) {
        const std::string app = absl::StrCat("w", w, "-", n % 5);
        const int max = 1 + (n / 5) % 1000;
        grpc::ClientContext context;
        context.set_wait_for_ready(true);
        rpc::SetDeadline(context, absl::Seconds(20));
        v1::PutPlanResponse response;
        const grpc::Status status =
            stub->PutPlan(&context, PlanRequest(app, max), &response);
        if (status.ok()) {
          acknowledged[static_cast<size_t>(w)][app] = max;
          ++total;
        } else {
          // Done or not: what is stored may be this, so it is not compared.
          acknowledged[static_cast<size_t>(w)].erase(app);
        }
      }
    });
  }

  std::mt19937 random(7);
  for (int round = 0; round < kRounds; ++round) {
    // Until something was acknowledged since the last kill, and a little more.
    const int before = total;
    while (total < before + 20) std::this_thread::yield();
    absl::SleepFor(
        absl::Milliseconds(std::uniform_int_distribution<int>(0, 60)(random)));
    process.End(SIGKILL);
    ASSERT_TRUE(process.Start());
  }
  const int before = total;
  while (total < before + 20) std::this_thread::yield();
  stop = true;
  for (std::thread& writer : writers) writer.join();

  const auto stub = Connect(process);
  grpc::ClientContext context;
  rpc::SetDeadline(context, absl::Seconds(20));
  v1::ListPlansRequest list;
  list.set_page_size(1000);
  v1::ListPlansResponse stored;
  ASSERT_TRUE(stub->ListPlans(&context, list, &stored).ok());
  std::map<std::string, v1::Plan> truth;
  for (const v1::Plan& plan : stored.plans()) truth[plan.app_name()] = plan;

  int compared = 0;
  for (const auto& by_app : acknowledged) {
    for (const auto& [app, max] : by_app) {
      EXPECT_EQ(truth[app].max(), max) << app;
      ++compared;
    }
  }
  EXPECT_GT(compared, kWriters);

  // The follower catches up; then it knows the same, and never began anew.
  const absl::Time deadline = absl::Now() + absl::Seconds(20);
  while (follower.revision() < stored.revision() && absl::Now() < deadline) {
    absl::SleepFor(absl::Milliseconds(5));
  }
  follower.Stop();
  const std::map<std::string, v1::Plan> known = follower.plans();
  process.End(SIGTERM);
  following.join();
  EXPECT_EQ(follower.resyncs(), 0);
  ASSERT_EQ(known.size(), truth.size());
  for (const auto& [app, plan] : truth) {
    EXPECT_EQ(known.at(app).SerializeAsString(), plan.SerializeAsString());
  }
}

TEST(FabricProcessTest, StopsOrderlyOnSigterm) {
  const TempDirectory directory = *TempDirectory::Create("fabric-process-");
  Process process(directory.path());
  ASSERT_TRUE(process.Start());
  const auto stub = Connect(process);
  grpc::ClientContext context;
  rpc::SetDeadline(context, absl::Seconds(20));
  auto reader = stub->WatchPlans(&context, {});
  v1::WatchPlansResponse message;
  ASSERT_TRUE(reader->Read(&message));

  const absl::Time start = absl::Now();
  const int status = process.End(SIGTERM);

  EXPECT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), 0);
  EXPECT_LT(absl::Now() - start, absl::Seconds(5));
  while (reader->Read(&message)) {
  }
  const absl::Status ended = rpc::ToAbslStatus(reader->Finish());
  EXPECT_EQ(ended.code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(ReasonOf(ended), "STOPPING");
}

TEST(FabricProcessTest, RefusesADirectoryThatAnotherFabricHolds) {
  const TempDirectory directory = *TempDirectory::Create("fabric-process-");
  Process first(directory.path());
  ASSERT_TRUE(first.Start());

  Process second(directory.path());

  EXPECT_FALSE(second.Start());
}

}  // namespace
}  // namespace mycelium::fabric
