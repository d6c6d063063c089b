// How two processes of a mesh know each other: mutual TLS, or loopback.

#ifndef LIB_RPC_CREDENTIALS_H_
#define LIB_RPC_CREDENTIALS_H_

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace grpc {
class ChannelCredentials;
class ServerCredentials;
}  // namespace grpc

namespace mycelium::rpc {

// PEM files of a process's identity and of those that it trusts.
struct TlsFiles {
  std::string cert_file;  // Its certificate chain.
  std::string key_file;   // The private key of the certificate.
  std::string ca_file;    // Who must have signed the peer's certificate.

  bool empty() const {
    return cert_file.empty() && key_file.empty() && ca_file.empty();
  }
};

// Credentials of a server that serves at `address`. With files: TLS, and a
// client certificate signed by the CA is required. Without: none, and the
// address must be a loopback or Unix one.
//
// InvalidArgument: some files are named and others are not.
// NotFound, PermissionDenied: a file cannot be read.
// FailedPrecondition: no files, and `address` can be reached from outside.
absl::StatusOr<std::shared_ptr<grpc::ServerCredentials>> MakeServerCredentials(
    const TlsFiles& files, absl::string_view address);

// Credentials of a client; errors as above, without the rule on addresses.
absl::StatusOr<std::shared_ptr<grpc::ChannelCredentials>>
MakeChannelCredentials(const TlsFiles& files);

// Whether `address` (`HOST:PORT`, `unix:PATH`) is reached from this machine
// only.
bool IsLocalAddress(absl::string_view address);

}  // namespace mycelium::rpc

#endif  // LIB_RPC_CREDENTIALS_H_
