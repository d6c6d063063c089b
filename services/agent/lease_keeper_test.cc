#include "services/agent/lease_keeper.h"

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "lib/base/error.h"
#include "lib/base/file.h"
#include "lib/base/mutex.h"

namespace mycelium::agent {
namespace {

namespace fv1 = fabric::v1;

absl::Status LeaseNotFound() {
  return MakeError(absl::StatusCode::kNotFound, "fabric.mycelium",
                   "LEASE_NOT_FOUND", "the lease has lapsed");
}

// Grants lease-1, lease-2, … and answers heartbeats as it is told.
class FakeFabric final : public FabricApi {
 public:
  class Beats final : public Heartbeats {
   public:
    explicit Beats(FakeFabric* fabric) : fabric_(*fabric) {}
    absl::StatusOr<fv1::HeartbeatResponse> Beat(
        const fv1::HeartbeatRequest& request) override {
      MutexLock lock(fabric_.mutex_);
      ++fabric_.beats;
      fabric_.changed_.NotifyAll();
      if (!fabric_.beat_error.ok()) {
        return std::exchange(fabric_.beat_error, absl::OkStatus());
      }
      fabric_.last_beat = request;
      return fv1::HeartbeatResponse();
    }

   private:
    FakeFabric& fabric_;
  };

  absl::StatusOr<fv1::JoinNodeResponse> JoinNode(
      const fv1::JoinNodeRequest& request) override {
    MutexLock lock(mutex_);
    joins.push_back(request);
    changed_.NotifyAll();
    if (!join_error.ok()) return std::exchange(join_error, absl::OkStatus());
    fv1::JoinNodeResponse response;
    if (!resumes) ++leases;
    response.set_lease_id(absl::StrCat("lease-", leases));
    response.mutable_heartbeat_interval()->set_nanos(50'000'000);
    return response;
  }
  std::unique_ptr<Heartbeats> OpenHeartbeats() override {
    return std::make_unique<Beats>(this);
  }

  absl::Status LeaveNode(const fv1::LeaveNodeRequest&) override {
    return absl::OkStatus();
  }
  absl::StatusOr<fv1::ClaimSlotResponse> ClaimSlot(
      const fv1::ClaimSlotRequest&) override {
    return absl::UnimplementedError("");
  }
  absl::Status UpdateSlot(const fv1::UpdateSlotRequest&) override {
    return absl::OkStatus();
  }
  absl::Status ReleaseSlot(const fv1::ReleaseSlotRequest&) override {
    return absl::OkStatus();
  }
  absl::Status RegisterEndpoint(const fv1::RegisterEndpointRequest&) override {
    return absl::OkStatus();
  }
  absl::Status UpdateEndpoint(const fv1::UpdateEndpointRequest&) override {
    return absl::OkStatus();
  }
  absl::Status DeregisterEndpoint(
      const fv1::DeregisterEndpointRequest&) override {
    return absl::OkStatus();
  }
  absl::StatusOr<fv1::ListEndpointsResponse> ListEndpoints(
      const fv1::ListEndpointsRequest&) override {
    return fv1::ListEndpointsResponse();
  }
  absl::Status RecordEvents(const fv1::RecordEventsRequest&) override {
    return absl::OkStatus();
  }
  void Cancel() override {}

  Mutex mutex_;
  CondVar changed_;
  // Whether the lease from before is granted again.
  bool resumes = false;
  int leases = 0;
  int beats = 0;
  absl::Status join_error;
  absl::Status beat_error;
  fv1::HeartbeatRequest last_beat;
  std::vector<fv1::JoinNodeRequest> joins;
};

class LeaseKeeperTest : public ::testing::Test {
 protected:
  LeaseKeeperTest() : directory_(TempDirectory::Create("lease").value()) {}

  void Start() {
    fv1::Node node;
    node.set_node_id("node-1");
    keeper_ = std::make_unique<LeaseKeeper>(
        LeaseKeeper::Options{.node = node, .lease_file = LeaseFile()}, &fabric_,
        LeaseKeeper::Callbacks{
            .joined =
                [this](const fv1::JoinNodeResponse& response) {
                  MutexLock lock(fabric_.mutex_);
                  log_ += response.lease_id() + " ";
                  fabric_.changed_.NotifyAll();
                },
            .lost =
                [this] {
                  MutexLock lock(fabric_.mutex_);
                  log_ += "lost ";
                  fabric_.changed_.NotifyAll();
                }});
  }

  std::string LeaseFile() const { return directory_.path() + "/lease"; }

  void WaitForLog(const std::string& log) {
    MutexLock lock(fabric_.mutex_);
    while (log_ != log) fabric_.changed_.Wait(fabric_.mutex_);
  }

  void WaitForBeats(int more) {
    MutexLock lock(fabric_.mutex_);
    const int wanted = fabric_.beats + more;
    while (fabric_.beats < wanted) fabric_.changed_.Wait(fabric_.mutex_);
  }

  TempDirectory directory_;
  FakeFabric fabric_;
  std::string log_;  // Guarded by the fabric's mutex.
  std::unique_ptr<LeaseKeeper> keeper_;
};

TEST_F(LeaseKeeperTest, JoinsAndKeepsTheLeaseAlive) {
  Start();
  WaitForLog("lease-1 ");
  WaitForBeats(3);

  MutexLock lock(fabric_.mutex_);
  EXPECT_EQ(fabric_.last_beat.node_id(), "node-1");
  EXPECT_EQ(fabric_.last_beat.lease_id(), "lease-1");
  EXPECT_EQ(fabric_.joins[0].lease_ttl().seconds(), 10);
}

TEST_F(LeaseKeeperTest, TriesToJoinUntilItWorks) {
  fabric_.join_error = absl::UnavailableError("not there yet");

  Start();

  WaitForLog("lease-1 ");
  EXPECT_EQ(fabric_.joins.size(), 2u);
}

TEST_F(LeaseKeeperTest, JoinsAgainWhenTheLeaseHasLapsed) {
  Start();
  WaitForLog("lease-1 ");
  {
    MutexLock lock(fabric_.mutex_);
    fabric_.beat_error = LeaseNotFound();
  }

  WaitForLog("lease-1 lost lease-2 ");
  EXPECT_EQ(fabric_.joins[1].previous_lease_id(), "lease-1");
}

TEST_F(LeaseKeeperTest, KeepsTheLeaseWhileTheFabricIsAway) {
  Start();
  WaitForLog("lease-1 ");
  {
    MutexLock lock(fabric_.mutex_);
    fabric_.beat_error = absl::UnavailableError("away");
  }

  WaitForBeats(4);

  WaitForLog("lease-1 ");
}

TEST_F(LeaseKeeperTest, BelievesACallThatWasToldThatTheLeaseIsGone) {
  Start();
  WaitForLog("lease-1 ");

  keeper_->OnLeaseNotFound("lease-1");
  WaitForLog("lease-1 lost lease-2 ");

  keeper_->OnLeaseNotFound("lease-1");
  WaitForBeats(2);
  WaitForLog("lease-1 lost lease-2 ");
}

TEST_F(LeaseKeeperTest, KeepsALeaseThatIsResumedAfterItWasReportedLost) {
  Start();
  WaitForLog("lease-1 ");
  {
    MutexLock lock(fabric_.mutex_);
    fabric_.resumes = true;
  }

  keeper_->OnLeaseNotFound("lease-1");

  WaitForLog("lease-1 lost lease-1 ");
  WaitForBeats(3);
  WaitForLog("lease-1 lost lease-1 ");
}

TEST_F(LeaseKeeperTest, DoesNotJoinAgainOnceItLeaves) {
  Start();
  WaitForLog("lease-1 ");
  WaitForBeats(1);
  keeper_->OnLeaving();
  {
    MutexLock lock(fabric_.mutex_);
    fabric_.beat_error = LeaseNotFound();
  }

  keeper_->Stop();

  WaitForLog("lease-1 ");
  EXPECT_THAT(fabric_.joins, ::testing::SizeIs(1));
}

TEST_F(LeaseKeeperTest, NamesTheLeaseOfTheProcessBeforeIt) {
  Start();
  WaitForLog("lease-1 ");
  WaitForBeats(1);
  keeper_.reset();

  Start();

  WaitForLog("lease-1 lease-2 ");
  EXPECT_EQ(fabric_.joins[1].previous_lease_id(), "lease-1");
}

}  // namespace
}  // namespace mycelium::agent
