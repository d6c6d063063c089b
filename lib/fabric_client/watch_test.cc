#include "lib/fabric_client/watch.h"

#include <deque>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "grpcpp/grpcpp.h"
#include "gtest/gtest.h"
#include "lib/base/mutex.h"
#include "lib/rpc/channel.h"
#include "lib/rpc/server.h"
#include "mycelium/fabric/v1/fabric.grpc.pb.h"

namespace mycelium::fabric_client {
namespace {

namespace v1 = fabric::v1;

constexpr absl::Duration kPatience = absl::Seconds(20);

// A queue between a test and the threads that it watches.
template <typename T>
class Mailbox {
 public:
  void Put(T item) {
    MutexLock lock(mutex_);
    items_.push_back(std::move(item));
    changed_.NotifyAll();
  }

  // The next item; fails the test and returns an empty one if none comes.
  T Take() {
    MutexLock lock(mutex_);
    while (items_.empty()) {
      if (!changed_.WaitFor(mutex_, kPatience)) {
        ADD_FAILURE() << "nothing came";
        return T();
      }
    }
    T item = std::move(items_.front());
    items_.pop_front();
    return item;
  }

 private:
  Mutex mutex_;
  CondVar changed_;
  std::deque<T> items_ ABSL_GUARDED_BY(mutex_);
};

// A fabric whose WatchPlans streams play what the test wrote, one script a
// stream; the last one stays open.
class ScriptedFabric final : public v1::Fabric::Service {
 public:
  using Script = std::vector<v1::WatchPlansResponse>;

  explicit ScriptedFabric(std::vector<Script> scripts)
      : scripts_(scripts.begin(), scripts.end()) {}

  grpc::Status WatchPlans(
      grpc::ServerContext* context, const v1::WatchPlansRequest* request,
      grpc::ServerWriter<v1::WatchPlansResponse>* writer) override {
    Script script;
    bool last = false;
    {
      MutexLock lock(mutex_);
      if (scripts_.empty()) return {grpc::StatusCode::UNAVAILABLE, "no script"};
      script = std::move(scripts_.front());
      scripts_.pop_front();
      last = scripts_.empty();
    }
    requests.Put(*request);
    for (const v1::WatchPlansResponse& response : script) {
      writer->Write(response);
    }
    MutexLock lock(mutex_);
    while (last && !context->IsCancelled()) {
      changed_.WaitFor(mutex_, absl::Milliseconds(20));
    }
    return {grpc::StatusCode::UNAVAILABLE, "shutting down"};
  }

  Mailbox<v1::WatchPlansRequest> requests;

 private:
  Mutex mutex_;
  CondVar changed_;
  std::deque<Script> scripts_ ABSL_GUARDED_BY(mutex_);
};

v1::WatchPlansResponse Message(v1::WatchKind kind, int64_t revision) {
  v1::WatchPlansResponse response;
  response.set_epoch("e1");
  response.set_kind(kind);
  response.set_revision(revision);
  return response;
}

v1::WatchPlansResponse Put(v1::WatchKind kind, int64_t revision,
                           const std::string& app) {
  v1::WatchPlansResponse response = Message(kind, revision);
  response.add_changes()->mutable_put()->set_app_name(app);
  return response;
}

// A watch of a scripted fabric.
class WatchTest : public testing::Test {
 protected:
  void Start(std::vector<ScriptedFabric::Script> scripts) {
    fabric_ = std::make_unique<ScriptedFabric>(std::move(scripts));
    server_ = *rpc::Server::Start(
        {.listen = "127.0.0.1:0",
         .services = {{fabric_.get(), v1::Fabric::service_full_name()}}});
    watch_ = WatchPlans(*rpc::Connect(server_->address(), {}), "",
                        [this](WatchUpdate<v1::Plan> update) {
                          updates_.Put(std::move(update));
                        });
  }

  Mailbox<WatchUpdate<v1::Plan>> updates_;
  std::unique_ptr<ScriptedFabric> fabric_;
  std::unique_ptr<rpc::Server> server_;
  std::unique_ptr<Watch> watch_;
};

TEST_F(WatchTest, DeliversTheSnapshotWholeAndThenChanges) {
  v1::WatchPlansResponse deletion = Message(v1::WATCH_KIND_CHANGE, 8);
  deletion.add_changes()->mutable_delete_()->set_key("a");
  Start({{Put(v1::WATCH_KIND_SNAPSHOT, 0, "a"),
          Put(v1::WATCH_KIND_SNAPSHOT, 0, "b"),
          Message(v1::WATCH_KIND_SNAPSHOT_END, 7), deletion,
          Message(v1::WATCH_KIND_BOOKMARK, 9)}});

  const WatchUpdate<v1::Plan> snapshot = updates_.Take();
  EXPECT_TRUE(snapshot.reset);
  EXPECT_EQ(snapshot.revision, 7);
  ASSERT_EQ(snapshot.puts.size(), 2U);
  EXPECT_EQ(snapshot.puts[1].app_name(), "b");

  const WatchUpdate<v1::Plan> change = updates_.Take();
  EXPECT_FALSE(change.reset);
  EXPECT_EQ(change.revision, 8);
  EXPECT_THAT(change.deletes, testing::ElementsAre("a"));

  const WatchUpdate<v1::Plan> bookmark = updates_.Take();
  EXPECT_EQ(bookmark.revision, 9);
  EXPECT_TRUE(bookmark.puts.empty());
  EXPECT_TRUE(watch_->synced());
  EXPECT_EQ(watch_->Staleness(), absl::ZeroDuration());
}

TEST_F(WatchTest, ResumesAfterABreak) {
  Start({{Message(v1::WATCH_KIND_SNAPSHOT_END, 7),
          Put(v1::WATCH_KIND_CHANGE, 8, "a")},
         {Put(v1::WATCH_KIND_CHANGE, 9, "b")}});

  EXPECT_EQ(updates_.Take().revision, 7);
  EXPECT_EQ(updates_.Take().revision, 8);
  EXPECT_EQ(updates_.Take().revision, 9);
  EXPECT_EQ(fabric_->requests.Take().after_revision(), 0);
  const v1::WatchPlansRequest resumed = fabric_->requests.Take();
  EXPECT_EQ(resumed.after_revision(), 8);
  EXPECT_EQ(resumed.epoch(), "e1");
}

TEST_F(WatchTest, BeginsASnapshotAnewThatBrokeOff) {
  Start({{Put(v1::WATCH_KIND_SNAPSHOT, 0, "a")},
         {Put(v1::WATCH_KIND_SNAPSHOT, 0, "b"),
          Message(v1::WATCH_KIND_SNAPSHOT_END, 7)}});

  const WatchUpdate<v1::Plan> snapshot = updates_.Take();

  ASSERT_EQ(snapshot.puts.size(), 1U);
  EXPECT_EQ(snapshot.puts[0].app_name(), "b");
}

TEST_F(WatchTest, TakesTheNewSnapshotAfterAResync) {
  Start(
      {{Put(v1::WATCH_KIND_SNAPSHOT, 0, "a"),
        Message(v1::WATCH_KIND_SNAPSHOT_END, 7),
        Message(v1::WATCH_KIND_RESYNC, 0), Put(v1::WATCH_KIND_SNAPSHOT, 0, "b"),
        Message(v1::WATCH_KIND_SNAPSHOT_END, 3)}});

  EXPECT_EQ(updates_.Take().revision, 7);
  const WatchUpdate<v1::Plan> again = updates_.Take();
  EXPECT_TRUE(again.reset);
  EXPECT_EQ(again.revision, 3);
  ASSERT_EQ(again.puts.size(), 1U);
  EXPECT_EQ(again.puts[0].app_name(), "b");
}

TEST_F(WatchTest, StopsWhileTheFabricIsAway) {
  Start({{Message(v1::WATCH_KIND_SNAPSHOT_END, 7)}});
  EXPECT_EQ(updates_.Take().revision, 7);

  server_->Shutdown(absl::ZeroDuration());

  watch_.reset();
}

}  // namespace
}  // namespace mycelium::fabric_client
