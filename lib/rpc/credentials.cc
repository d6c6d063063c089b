#include "lib/rpc/credentials.h"

#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "grpcpp/security/credentials.h"
#include "grpcpp/security/server_credentials.h"
#include "lib/base/error.h"
#include "lib/base/file.h"
#include "lib/base/status_macros.h"

namespace mycelium::rpc {
namespace {

constexpr int64_t kMaxPemBytes = 1 << 20;

struct Pems {
  std::string cert;
  std::string key;
  std::string ca;
};

absl::StatusOr<std::string> ReadPem(const std::string& path,
                                    absl::string_view flag) {
  if (path.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat(flag,
                     " is not set: TLS needs a certificate, its key and the CA "
                     "of the peers; name all three files or none"));
  }
  absl::StatusOr<std::string> text = ReadFile(path, kMaxPemBytes);
  if (!text.ok()) return Annotate(text.status(), flag);
  if (!absl::StrContains(*text, "-----BEGIN ")) {
    return absl::InvalidArgumentError(
        absl::StrCat(flag, ": ", path, " is not a PEM file"));
  }
  return text;
}

absl::StatusOr<Pems> ReadPems(const TlsFiles& files) {
  Pems pems;
  MYC_ASSIGN_OR_RETURN(pems.cert, ReadPem(files.cert_file, "tls_cert"));
  MYC_ASSIGN_OR_RETURN(pems.key, ReadPem(files.key_file, "tls_key"));
  MYC_ASSIGN_OR_RETURN(pems.ca, ReadPem(files.ca_file, "tls_ca"));
  return pems;
}

}  // namespace

bool IsLocalAddress(absl::string_view address) {
  return absl::StartsWith(address, "unix:") ||
         absl::StartsWith(address, "127.") ||
         absl::StartsWith(address, "localhost:") ||
         absl::StartsWith(address, "[::1]:");
}

absl::StatusOr<std::shared_ptr<grpc::ServerCredentials>> MakeServerCredentials(
    const TlsFiles& files, absl::string_view address) {
  if (files.empty()) {
    if (!IsLocalAddress(address)) {
      return absl::FailedPreconditionError(absl::StrCat(
          "refusing to listen on ", address,
          " without TLS: others could reach it; set tls_cert, tls_key and "
          "tls_ca, or listen on 127.0.0.1"));
    }
    return grpc::InsecureServerCredentials();
  }
  MYC_ASSIGN_OR_RETURN(Pems pems, ReadPems(files));
  grpc::SslServerCredentialsOptions options(
      GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY);
  options.pem_root_certs = std::move(pems.ca);
  options.pem_key_cert_pairs.push_back(
      {std::move(pems.key), std::move(pems.cert)});
  return grpc::SslServerCredentials(options);
}

absl::StatusOr<std::shared_ptr<grpc::ChannelCredentials>>
MakeChannelCredentials(const TlsFiles& files) {
  if (files.empty()) return grpc::InsecureChannelCredentials();
  MYC_ASSIGN_OR_RETURN(Pems pems, ReadPems(files));
  grpc::SslCredentialsOptions options;
  options.pem_root_certs = std::move(pems.ca);
  options.pem_private_key = std::move(pems.key);
  options.pem_cert_chain = std::move(pems.cert);
  return grpc::SslCredentials(options);
}

}  // namespace mycelium::rpc
