// The rules that requests must meet. Each function adds to `violations` a line
// for every field that is wrong: its JSON path below `path`, its value and the
// rule. None of them looks at state.
#ifndef SERVICES_FABRIC_VALIDATE_H_
#define SERVICES_FABRIC_VALIDATE_H_

#include <cstdint>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "google/protobuf/duration.pb.h"
#include "google/protobuf/timestamp.pb.h"
#include "lib/base/error.h"
#include "mycelium/fabric/v1/fabric.pb.h"

namespace mycelium::fabric {

// What a field that may be left out means then.
inline constexpr absl::Duration kDefaultMinReady = absl::Seconds(3);
inline constexpr absl::Duration kDefaultDrainTimeout = absl::Seconds(10);
inline constexpr absl::Duration kDefaultStopTimeout = absl::Seconds(10);
inline constexpr absl::Duration kDefaultLeaseTtl = absl::Seconds(10);
inline constexpr int kDefaultPageSize = 100;
inline constexpr int kMaxPageSize = 1000;
inline constexpr int kMaxEventsPerRequest = 100;

void CheckAppName(absl::string_view path, absl::string_view value,
                  FieldViolations* violations);
// As CheckAppName, but an empty value, which selects all, is fine.
void CheckAppFilter(absl::string_view path, absl::string_view value,
                    FieldViolations* violations);
void CheckId(absl::string_view path, absl::string_view value,
             FieldViolations* violations);
void CheckIdFilter(absl::string_view path, absl::string_view value,
                   FieldViolations* violations);
void CheckDigest(absl::string_view path, absl::string_view value,
                 FieldViolations* violations);
void CheckRange(absl::string_view path, int64_t value, int64_t min, int64_t max,
                FieldViolations* violations);
void CheckDuration(absl::string_view path,
                   const google::protobuf::Duration& value, absl::Duration min,
                   absl::Duration max, FieldViolations* violations);
// Between the years 1 and 9999, as the type demands.
void CheckTimestamp(absl::string_view path,
                    const google::protobuf::Timestamp& value,
                    FieldViolations* violations);
// Well-formed UTF-8 of at most `max_bytes`, without control characters but tab
// and newline.
void CheckText(absl::string_view path, absl::string_view value,
               size_t max_bytes, FieldViolations* violations);
// UPPER_SNAKE_CASE of at most 63 bytes; empty only if `optional`.
void CheckConstant(absl::string_view path, absl::string_view value,
                   bool optional, FieldViolations* violations);
// `HOST:PORT`.
void CheckAddress(absl::string_view path, absl::string_view value,
                  FieldViolations* violations);
// `http://HOST:PORT` with nothing after it; the host an IP address (IPv6 in
// brackets) or a DNS name.
void CheckUrl(absl::string_view path, absl::string_view value,
              FieldViolations* violations);
// A lease id: 16 hex digits.
void CheckLease(absl::string_view path, absl::string_view value,
                FieldViolations* violations);
void CheckRequestId(absl::string_view value, FieldViolations* violations);
void CheckExpectedRevision(int64_t value, FieldViolations* violations);

void CheckPlan(const v1::Plan& plan, FieldViolations* violations);
void CheckBudget(const v1::Budget& budget, FieldViolations* violations);
void CheckEndpoint(const v1::Endpoint& endpoint, FieldViolations* violations);
void CheckNode(const v1::Node& node, FieldViolations* violations);
void CheckEdge(const v1::EdgeInfo& edge, FieldViolations* violations);
void CheckEvent(absl::string_view path, const v1::Event& event,
                FieldViolations* violations);
// App, index and generation of a slot.
void CheckSlotId(absl::string_view app, int32_t index, int64_t generation,
                 FieldViolations* violations);

// Conversions between the two kinds of times, which assume valid values.
absl::Duration ToDuration(const google::protobuf::Duration& value);
google::protobuf::Duration FromDuration(absl::Duration value);
absl::Time ToTime(const google::protobuf::Timestamp& value);
google::protobuf::Timestamp FromTime(absl::Time value);

}  // namespace mycelium::fabric

#endif  // SERVICES_FABRIC_VALIDATE_H_
