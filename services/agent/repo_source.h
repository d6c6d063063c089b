#ifndef SERVICES_AGENT_REPO_SOURCE_H_
#define SERVICES_AGENT_REPO_SOURCE_H_

#include <memory>
#include <set>
#include <string>

#include "absl/base/thread_annotations.h"
#include "lib/base/mutex.h"
#include "services/agent/spore_cache.h"

namespace grpc {
class ChannelInterface;
class ClientContext;
}  // namespace grpc

namespace mycelium::agent {

// Fetches spores from the repo behind a channel. Thread-safe.
class RepoSource final : public SporeSource {
 public:
  explicit RepoSource(std::shared_ptr<grpc::ChannelInterface> channel);
  ~RepoSource() override;

  // Errors are those of Repo.Get; Unavailable also when nothing arrives for a
  // while.
  absl::Status Fetch(const std::string& digest, int64_t offset,
                     Sink sink) override;

  // Ends what is under way, and all later calls, with Cancelled.
  void Cancel();

 private:
  const std::shared_ptr<grpc::ChannelInterface> channel_;

  Mutex mutex_;
  bool cancelled_ ABSL_GUARDED_BY(mutex_) = false;
  std::set<grpc::ClientContext*> calls_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace mycelium::agent

#endif  // SERVICES_AGENT_REPO_SOURCE_H_
