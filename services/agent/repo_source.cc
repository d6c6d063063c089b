#include "services/agent/repo_source.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "grpcpp/client_context.h"
#include "grpcpp/support/sync_stream.h"
#include "lib/base/error.h"
#include "lib/rpc/channel.h"
#include "lib/rpc/status.h"
#include "mycelium/repo/v1/repo.grpc.pb.h"

namespace mycelium::agent {
namespace {

// For one try; what arrived is kept, and the next one goes on from there.
constexpr absl::Duration kTimeout = absl::Minutes(5);

}  // namespace

RepoSource::RepoSource(std::shared_ptr<grpc::ChannelInterface> channel)
    : channel_(std::move(channel)) {}

RepoSource::~RepoSource() = default;

absl::Status RepoSource::Fetch(const std::string& digest, int64_t offset,
                               Sink sink) {
  grpc::ClientContext context;
  {
    MutexLock lock(mutex_);
    if (cancelled_) return absl::CancelledError("the agent stops");
    calls_.insert(&context);
  }
  rpc::SetDeadline(context, kTimeout);
  repo::v1::GetRequest request;
  request.set_digest(digest);
  request.set_offset(offset);
  const std::unique_ptr<repo::v1::Repo::Stub> stub =
      repo::v1::Repo::NewStub(channel_);
  const std::unique_ptr<grpc::ClientReader<repo::v1::GetResponse>> stream =
      stub->Get(&context, request);

  absl::Status status;
  repo::v1::GetResponse response;
  int64_t size_bytes = 0;
  while (status.ok() && stream->Read(&response)) {
    if (response.size_bytes() != 0) size_bytes = response.size_bytes();
    if (response.offset() != offset) {
      status = absl::UnavailableError(absl::StrCat(
          "the repo sent offset ", response.offset(), " instead of ", offset));
      break;
    }
    offset += static_cast<int64_t>(response.chunk().size());
    status = sink(size_bytes, response.chunk());
  }
  if (!status.ok()) context.TryCancel();
  const absl::Status end = rpc::ToAbslStatus(stream->Finish());
  {
    MutexLock lock(mutex_);
    calls_.erase(&context);
  }
  if (!status.ok()) return status;
  return end.ok() ? end : Annotate(end, "repo");
}

void RepoSource::Cancel() {
  MutexLock lock(mutex_);
  cancelled_ = true;
  for (grpc::ClientContext* const call : calls_) call->TryCancel();
}

}  // namespace mycelium::agent
