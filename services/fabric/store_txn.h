// How the fabric changes its store: read, decide, write only if what was read
// still holds, and otherwise decide again.
#ifndef SERVICES_FABRIC_STORE_TXN_H_
#define SERVICES_FABRIC_STORE_TXN_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "services/fabric/errors.h"
#include "services/fabric/store/store.h"

namespace mycelium::fabric {

// Takes the answer of an asynchronous operation. It is called exactly once, on
// the calling thread or on the store's notifier, with no lock held.
template <typename Response>
using Done = absl::AnyInvocable<void(absl::StatusOr<Response>)>;

// What an operation decided to do, given the state that it read.
template <typename Response>
struct Draft {
  // What was read and must still hold, and what to write then. Without
  // operations nothing is written and the answer stands at once.
  std::vector<Compare> compares;
  std::vector<Op> ops;
  Response response;
  // Completes the response with the revision of the transaction. May be null.
  std::function<void(int64_t revision, Response* response)> stamp;
};

// Reads the store's newest state and decides, without waiting for anything.
template <typename Response>
using Decide = std::function<absl::StatusOr<Draft<Response>>()>;

// Runs `decide` and writes what it drafts, again while others get in between.
//
// Errors of `decide`, and of the store as FromStore has them. ABORTED
// (CONTENTION): others were faster 100 times in a row.
template <typename Response>
void Write(Store* store, Decide<Response> decide, Done<Response> done,
           int attempts_left = 100) {
  absl::StatusOr<Draft<Response>> draft = decide();
  if (!draft.ok()) {
    done(draft.status());
    return;
  }
  if (draft->ops.empty()) {
    done(std::move(draft->response));
    return;
  }
  if (attempts_left == 0) {
    done(FabricError(absl::StatusCode::kAborted, "CONTENTION",
                     "others keep changing this; try again"));
    return;
  }
  TxnRequest txn;
  txn.compares = std::move(draft->compares);
  txn.then_ops = std::move(draft->ops);
  store->TxnAsync(
      std::move(txn),
      [store, decide = std::move(decide), done = std::move(done),
       response = std::move(draft->response), stamp = std::move(draft->stamp),
       attempts_left](absl::StatusOr<TxnResponse> txn) mutable {
        if (!txn.ok()) {
          done(FromStore(txn.status()));
          return;
        }
        if (!txn->succeeded) {
          Write<Response>(store, std::move(decide), std::move(done),
                          attempts_left - 1);
          return;
        }
        if (stamp != nullptr) stamp(txn->revision, &response);
        done(std::move(response));
      });
}

}  // namespace mycelium::fabric

#endif  // SERVICES_FABRIC_STORE_TXN_H_
