#include "lib/rpc/flags.h"

#include "gflags/gflags.h"

DEFINE_string(
    tls_cert, "",
    "PEM file with this process's certificate chain. With tls_key and "
    "tls_ca it turns mutual TLS on; without, only loopback addresses "
    "are served.");
DEFINE_string(tls_key, "", "PEM file with the private key of tls_cert.");
DEFINE_string(tls_ca, "",
              "PEM file with the CA that must have signed the certificates of "
              "all peers.");

namespace mycelium::rpc {

TlsFiles TlsFilesFromFlags() {
  return {.cert_file = FLAGS_tls_cert,
          .key_file = FLAGS_tls_key,
          .ca_file = FLAGS_tls_ca};
}

}  // namespace mycelium::rpc
