#include "services/agent/log_session.h"

#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "lib/base/error.h"
#include "lib/base/ids.h"
#include "services/agent/log_reader.h"

namespace mycelium::agent {
namespace {

constexpr absl::string_view kErrorDomain = "agent.mycelium";
constexpr int64_t kDefaultTail = 100;
constexpr int64_t kMaxResponseBytes = int64_t{256} << 10;
constexpr absl::Duration kLookAgain = absl::Milliseconds(500);

std::optional<LogStream> StreamOf(v1::LogLine::Stream stream) {
  switch (stream) {
    case v1::LogLine::STREAM_STDOUT:
      return LogStream::kOut;
    case v1::LogLine::STREAM_STDERR:
      return LogStream::kErr;
    case v1::LogLine::STREAM_AGENT:
      return LogStream::kAgent;
    default:
      return std::nullopt;
  }
}

v1::LogLine::Stream ProtoOf(LogStream stream) {
  switch (stream) {
    case LogStream::kOut:
      return v1::LogLine::STREAM_STDOUT;
    case LogStream::kErr:
      return v1::LogLine::STREAM_STDERR;
    case LogStream::kAgent:
      break;
  }
  return v1::LogLine::STREAM_AGENT;
}

absl::Status Missing(const v1::GetLogsRequest& request) {
  if (!request.instance_id().empty()) {
    return MakeError(absl::StatusCode::kNotFound, kErrorDomain,
                     "INSTANCE_NOT_FOUND",
                     absl::StrCat("this node has no instance ",
                                  Quoted(request.instance_id())),
                     {{"instance_id", request.instance_id()}});
  }
  return MakeError(absl::StatusCode::kNotFound, kErrorDomain, "APP_NOT_FOUND",
                   absl::StrCat("this node runs no instance of ",
                                Quoted(request.app_name())),
                   {{"app_name", request.app_name()}});
}

// The lines of `known` that `request` asks for; nothing if none can be.
std::optional<LogSource> SourceOf(const LogSession::Known& known,
                                  const v1::GetLogsRequest& request) {
  LogSource source = {.instance_id = known.instance_id,
                      .app_name = known.app_name};
  if (request.previous()) {
    // Between two processes the last one is the previous one.
    source.run = known.running ? known.run - 1 : known.run;
    if (source.run < 1) return std::nullopt;
  }
  return source;
}

v1::GetLogsResponse ToResponse(const std::vector<LogReader::Line>& lines) {
  v1::GetLogsResponse response;
  for (const LogReader::Line& line : lines) {
    v1::LogLine& proto = *response.add_lines();
    const int64_t seconds = absl::ToUnixSeconds(line.time);
    proto.mutable_time()->set_seconds(seconds);
    proto.mutable_time()->set_nanos(static_cast<int32_t>(
        absl::ToInt64Nanoseconds(line.time - absl::FromUnixSeconds(seconds))));
    proto.set_stream(ProtoOf(line.stream));
    proto.set_text(line.text);
    proto.set_instance_id(line.source->instance_id);
    proto.set_app_name(line.source->app_name);
  }
  return response;
}

}  // namespace

absl::Status LogSession::Check(const v1::GetLogsRequest& request) {
  FieldViolations violations;
  if (request.instance_id().empty() == request.app_name().empty()) {
    violations.Add("instanceId",
                   "exactly one of instanceId and appName must be set");
  }
  if (!request.instance_id().empty() && !IsId(request.instance_id())) {
    violations.Add("instanceId",
                   absl::StrCat(Quoted(request.instance_id()), " ", kIdRule));
  }
  if (!request.app_name().empty() && !IsAppName(request.app_name())) {
    violations.Add("appName",
                   absl::StrCat(Quoted(request.app_name()), " ", kAppNameRule));
  }
  if (request.has_tail_lines() && request.tail_lines() < -1) {
    violations.Add("tailLines",
                   absl::StrCat(request.tail_lines(), " must be -1 or more"));
  }
  if (!v1::LogLine::Stream_IsValid(request.stream())) {
    violations.Add("stream", absl::StrCat(static_cast<int>(request.stream()),
                                          " is not a stream"));
  }
  return violations.ToStatus(kErrorDomain, "REQUEST_INVALID");
}

absl::Status LogSession::Serve(const v1::GetLogsRequest& request,
                               const Send& send,
                               const std::function<bool()>& cancelled) {
  LogFilter filter;
  filter.stream = StreamOf(request.stream());
  if (request.has_since_time()) {
    filter.since = absl::FromUnixSeconds(request.since_time().seconds()) +
                   absl::Nanoseconds(request.since_time().nanos());
  }
  LogReader reader(&store_, filter);
  std::vector<Known> known = lookup_(request);
  // Only a named app can come into being later.
  if (known.empty() && (!request.follow() || request.app_name().empty())) {
    return Missing(request);
  }
  for (const Known& instance : known) {
    if (std::optional<LogSource> source = SourceOf(instance, request)) {
      reader.AddSource(*std::move(source));
    }
  }
  reader.KeepTail(request.has_tail_lines() ? request.tail_lines()
                                           : kDefaultTail);
  // What the process before wrote is complete.
  const bool follow = request.follow() && !request.previous();
  absl::Time next_lookup = absl::InfinitePast();
  bool all_stopped = false;
  while (!cancelled()) {
    const uint64_t seen = store_.change_count();
    if (follow && absl::Now() >= next_lookup) {
      // Not for every line: instances come and go seldom, and others ask too.
      next_lookup = absl::Now() + kLookAgain;
      known = lookup_(request);
      all_stopped = !request.instance_id().empty();
      for (const Known& instance : known) {
        if (!instance.stopped) all_stopped = false;
        if (std::optional<LogSource> source = SourceOf(instance, request)) {
          reader.AddSource(*std::move(source));
        }
      }
    }
    while (!cancelled()) {
      const std::vector<LogReader::Line> lines = reader.Read(kMaxResponseBytes);
      if (lines.empty()) break;
      if (!send(ToResponse(lines))) return absl::OkStatus();
    }
    if (!follow || all_stopped) return absl::OkStatus();
    store_.WaitForChange(seen, kLookAgain);
  }
  return absl::CancelledError("the caller has gone");
}

}  // namespace mycelium::agent
