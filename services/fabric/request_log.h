#ifndef SERVICES_FABRIC_REQUEST_LOG_H_
#define SERVICES_FABRIC_REQUEST_LOG_H_

#include <atomic>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "google/protobuf/message_lite.h"
#include "lib/base/clock.h"
#include "services/fabric/store/store.h"

namespace mycelium::fabric {

// Remembers the answers of writes that carry a request id, so that a retry gets
// the answer again instead of acting twice. An answer is written by the
// transaction that it answers, and kept for at least ten minutes by a lease
// that all answers of a minute share. Thread-safe.
class RequestLog {
 public:
  // Both must outlive the log.
  RequestLog(Store* store, Clock* clock) : store_(*store), clock_(*clock) {}

  // Makes the lease under which answers are kept from now on, if the present
  // one is a minute old. Called every few seconds, and before the first write.
  absl::Status Renew();

  // The answer to `request`, whose id is `id`, if it was answered before.
  //
  // InvalidArgument (REQUEST_INVALID): the id was used for another request.
  struct Answer {
    std::string bytes;
    int64_t revision;  // Of the transaction that it answers.
  };
  absl::StatusOr<std::optional<Answer>> Find(
      absl::string_view method, absl::string_view id,
      const google::protobuf::MessageLite& request);

  // Adds the writing of the answer to a transaction, and that there is none
  // yet.
  void Append(absl::string_view method, absl::string_view id,
              const google::protobuf::MessageLite& request,
              const google::protobuf::MessageLite& response,
              std::vector<Compare>* compares, std::vector<Op>* ops);

 private:
  Store& store_;
  Clock& clock_;
  std::atomic<LeaseId> lease_ = kNoLease;
  std::atomic<int64_t> renewed_ns_ = 0;
};

}  // namespace mycelium::fabric

#endif  // SERVICES_FABRIC_REQUEST_LOG_H_
