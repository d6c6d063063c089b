#ifndef LIB_RPC_LOCKS_H_
#define LIB_RPC_LOCKS_H_

namespace mycelium::rpc {

// Turns off Abseil's search for cycles in the order of locks, for the whole
// process. Debian's Abseil is built with assertions, which turn it on, and gRPC
// takes several locks a message: a busy fabric spent about a quarter of its
// processor time on it (//bench/fabric:fabric_bench, a durable put).
// Thread-safe; Server::Start and Connect call it.
void DisableDeadlockSearch();

}  // namespace mycelium::rpc

#endif  // LIB_RPC_LOCKS_H_
