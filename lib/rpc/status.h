// Crossing between absl::Status, which our code speaks, and grpc::Status,
// which only the edge of a service speaks.

#ifndef LIB_RPC_STATUS_H_
#define LIB_RPC_STATUS_H_

#include "absl/status/status.h"
#include "grpcpp/support/status.h"

namespace mycelium::rpc {

// Code, message and payloads survive the way there and back.
grpc::Status ToGrpcStatus(const absl::Status& status);
absl::Status ToAbslStatus(const grpc::Status& status);

}  // namespace mycelium::rpc

#endif  // LIB_RPC_STATUS_H_
