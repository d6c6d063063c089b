#include "lib/base/error.h"

#include "absl/strings/cord.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/types/optional.h"
#include "google/rpc/error_details.pb.h"

namespace mycelium {
namespace {

constexpr char kErrorInfoUrl[] = "type.googleapis.com/google.rpc.ErrorInfo";
constexpr char kBadRequestUrl[] = "type.googleapis.com/google.rpc.BadRequest";
constexpr char kRetryInfoUrl[] = "type.googleapis.com/google.rpc.RetryInfo";

google::rpc::ErrorInfo ErrorInfoOf(const absl::Status& status) {
  const absl::optional<absl::Cord> payload = status.GetPayload(kErrorInfoUrl);
  google::rpc::ErrorInfo info;
  if (!payload.has_value() || !info.ParseFromString(std::string(*payload))) {
    info.Clear();
  }
  return info;
}

}  // namespace

absl::Status MakeError(
    absl::StatusCode code, absl::string_view domain, absl::string_view reason,
    absl::string_view message,
    const std::vector<std::pair<std::string, std::string>>& metadata) {
  google::rpc::ErrorInfo info;
  info.set_domain(std::string(domain));
  info.set_reason(std::string(reason));
  for (const auto& [key, value] : metadata) {
    (*info.mutable_metadata())[key] = value;
  }
  absl::Status status(code, message);
  status.SetPayload(kErrorInfoUrl, absl::Cord(info.SerializeAsString()));
  return status;
}

void FieldViolations::Add(absl::string_view field,
                          absl::string_view description) {
  violations_.emplace_back(field, description);
}

absl::Status FieldViolations::ToStatus(absl::string_view domain,
                                       absl::string_view reason) const {
  if (violations_.empty()) return absl::OkStatus();
  google::rpc::BadRequest details;
  std::vector<std::string> lines;
  for (const auto& [field, description] : violations_) {
    google::rpc::BadRequest::FieldViolation* violation =
        details.add_field_violations();
    violation->set_field(field);
    violation->set_description(description);
    lines.push_back(absl::StrCat(field, ": ", description));
  }
  absl::Status status = MakeError(absl::StatusCode::kInvalidArgument, domain,
                                  reason, absl::StrJoin(lines, "; "));
  status.SetPayload(kBadRequestUrl, absl::Cord(details.SerializeAsString()));
  return status;
}

absl::Status WithRetryAfter(absl::Status status, absl::Duration delay) {
  google::rpc::RetryInfo info;
  const int64_t nanos = absl::ToInt64Nanoseconds(delay);
  info.mutable_retry_delay()->set_seconds(nanos / 1'000'000'000);
  info.mutable_retry_delay()->set_nanos(
      static_cast<int32_t>(nanos % 1'000'000'000));
  status.SetPayload(kRetryInfoUrl, absl::Cord(info.SerializeAsString()));
  return status;
}

absl::Status Annotate(const absl::Status& status, absl::string_view context) {
  if (status.ok()) return status;
  absl::Status result(status.code(),
                      absl::StrCat(context, ": ", status.message()));
  status.ForEachPayload(
      [&result](absl::string_view url, const absl::Cord& payload) {
        result.SetPayload(url, payload);
      });
  return result;
}

std::string MetadataOf(const absl::Status& status, absl::string_view key) {
  const google::rpc::ErrorInfo info = ErrorInfoOf(status);
  const auto it = info.metadata().find(std::string(key));
  return it == info.metadata().end() ? "" : it->second;
}

std::string ReasonOf(const absl::Status& status) {
  return ErrorInfoOf(status).reason();
}

}  // namespace mycelium
