// The flags by which every service is given its TLS identity.

#ifndef LIB_RPC_FLAGS_H_
#define LIB_RPC_FLAGS_H_

#include "lib/rpc/credentials.h"

namespace mycelium::rpc {

// What --tls_cert, --tls_key and --tls_ca say. Call it after the flags are
// parsed.
TlsFiles TlsFilesFromFlags();

}  // namespace mycelium::rpc

#endif  // LIB_RPC_FLAGS_H_
