// Connections from one process of a mesh to another.

#ifndef LIB_RPC_CHANNEL_H_
#define LIB_RPC_CHANNEL_H_

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "lib/rpc/credentials.h"

namespace grpc {
class Channel;
class ClientContext;
}  // namespace grpc

namespace mycelium::rpc {

// A channel to `address` (`HOST:PORT`). It connects when it is first used and
// again whenever it must, at most 2 s after the last try; a peer that does not
// answer is noticed within 15 s. Every channel has connections of its own.
//
// InvalidArgument: `address` is no address, or the TLS files are incomplete.
absl::StatusOr<std::shared_ptr<grpc::Channel>> Connect(
    const std::string& address, const TlsFiles& tls);

// Gives the call of `context` the deadline `timeout` from now.
void SetDeadline(grpc::ClientContext& context, absl::Duration timeout);

}  // namespace mycelium::rpc

#endif  // LIB_RPC_CHANNEL_H_
