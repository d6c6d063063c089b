#include "services/fabric/event_log.h"

#include <algorithm>
#include <memory>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "glog/logging.h"
#include "lib/base/error.h"
#include "lib/base/ids.h"
#include "lib/base/status_macros.h"
#include "services/fabric/errors.h"
#include "services/fabric/keys.h"
#include "services/fabric/paging.h"
#include "services/fabric/resources.h"
#include "services/fabric/validate.h"

namespace mycelium::fabric {
namespace {

// The id of an event that came without one.
std::string FabricEventId(int64_t sequence) {
  return absl::StrCat("f-", absl::Hex(sequence));
}

}  // namespace

EventLog::EventLog(Store* store, Clock* clock)
    : store_(*store), clock_(*clock) {
  const absl::StatusOr<RangeResponse> range =
      store_.Range(RangeRequest::Prefix(kEvents));
  if (!range.ok()) return;
  MutexLock lock(mutex_);
  for (const EntryPtr& entry : range->entries) {
    const v1::Event event = EventOf(*entry);
    if (ids_.insert(event.event_id()).second) {
      order_.push_back(event.event_id());
    }
    const int64_t sequence =
        EventSequenceOf(absl::string_view(entry->key).substr(kEvents.size()));
    last_sequence_ = std::max(last_sequence_, sequence);
  }
}

int64_t EventLog::NextSequence() {
  MutexLock lock(mutex_);
  // Microseconds of the day, so that keys also sort by time across restarts.
  last_sequence_ =
      std::max(last_sequence_ + 1, absl::ToUnixMicros(clock_.Now()));
  return last_sequence_;
}

Op EventLog::Record(absl::string_view type, v1::Event::Severity severity,
                    v1::Event event) {
  const int64_t sequence = NextSequence();
  event.set_event_id(FabricEventId(sequence));
  event.set_type(std::string(type));
  event.set_severity(severity);
  *event.mutable_time() = FromTime(clock_.Now());
  return Op::Put(KeyOf(kEvents, EventName(sequence, event.app_name())),
                 event.SerializeAsString());
}

void EventLog::Record(const v1::RecordEventsRequest& request,
                      Done<v1::RecordEventsResponse> done) {
  FieldViolations violations;
  if (request.events_size() > kMaxEventsPerRequest) {
    violations.Add("events", absl::StrCat(request.events_size(),
                                          " events are more than the ",
                                          kMaxEventsPerRequest, " allowed"));
  } else {
    for (int i = 0; i < request.events_size(); ++i) {
      CheckEvent(absl::StrCat("events[", i, "]"), request.events(i),
                 &violations);
    }
  }
  absl::Status valid = violations.ToStatus(kErrorDomain, "EVENT_INVALID");
  if (!valid.ok()) {
    done(std::move(valid));
    return;
  }

  std::vector<std::string> new_ids;
  Draft<v1::RecordEventsResponse> draft;
  for (v1::Event event : request.events()) {
    const int64_t sequence = NextSequence();
    if (event.event_id().empty()) {
      event.set_event_id(FabricEventId(sequence));
    } else {
      MutexLock lock(mutex_);
      if (!ids_.insert(event.event_id()).second) continue;
      order_.push_back(event.event_id());
      new_ids.push_back(event.event_id());
      if (order_.size() > kKept) {
        ids_.erase(order_.front());
        order_.pop_front();
      }
    }
    if (!event.has_time()) *event.mutable_time() = FromTime(clock_.Now());
    if (event.severity() == v1::Event::SEVERITY_UNSPECIFIED) {
      event.set_severity(v1::Event::SEVERITY_INFO);
    }
    event.clear_revision();
    draft.ops.push_back(
        Op::Put(KeyOf(kEvents, EventName(sequence, event.app_name())),
                event.SerializeAsString()));
  }
  draft.response.set_revision(store_.Revision());
  draft.stamp = [](int64_t revision, v1::RecordEventsResponse* response) {
    response->set_revision(revision);
  };
  Write<v1::RecordEventsResponse>(
      &store_, [draft] { return draft; },
      [this, new_ids = std::move(new_ids), done = std::move(done)](
          absl::StatusOr<v1::RecordEventsResponse> response) mutable {
        if (!response.ok()) {
          MutexLock lock(mutex_);
          for (const std::string& id : new_ids) ids_.erase(id);
        }
        done(std::move(response));
      });
}

absl::StatusOr<v1::ListEventsResponse> EventLog::List(
    const v1::ListEventsRequest& request) {
  FieldViolations violations;
  CheckAppFilter("appName", request.app_name(), &violations);
  CheckIdFilter("nodeID", request.node_id(), &violations);
  if (request.has_since_time()) {
    CheckTimestamp("sinceTime", request.since_time(), &violations);
  }
  MYC_RETURN_IF_ERROR(violations.ToStatus(kErrorDomain, "REQUEST_INVALID"));
  const std::string query = absl::StrCat(
      "events,", request.app_name(), ",", request.node_id(), ",",
      request.since_time().seconds(), ".", request.since_time().nanos());
  v1::ListEventsResponse response;
  response.set_epoch(store_.Epoch());
  MYC_ASSIGN_OR_RETURN(const PageCursor cursor,
                       OpenPage(response.epoch(), query, request.page_size(),
                                request.page_token()));
  // New events do not disturb a walk towards the oldest, so every page is read
  // at the newest revision.
  absl::StatusOr<RangeResponse> range =
      store_.Range(RangeRequest::Prefix(kEvents));
  if (!range.ok()) return FromStore(range.status());
  response.set_revision(range->revision);
  const size_t oldest =
      range->entries.size() > kKept ? range->entries.size() - kKept : 0;
  for (size_t i = range->entries.size(); i > oldest; --i) {
    const Entry& entry = *range->entries[i - 1];
    if (!cursor.after_key.empty() && entry.key >= cursor.after_key) continue;
    v1::Event event = EventOf(entry);
    if ((!request.app_name().empty() &&
         event.app_name() != request.app_name()) ||
        (!request.node_id().empty() && event.node_id() != request.node_id()) ||
        (request.has_since_time() &&
         ToTime(event.time()) < ToTime(request.since_time()))) {
      continue;
    }
    if (static_cast<size_t>(response.events_size()) == cursor.size) {
      response.set_next_page_token(MakePageToken(
          response.epoch(), query, range->revision, range->entries[i]->key));
      break;
    }
    *response.add_events() = std::move(event);
  }
  return response;
}

absl::Status EventLog::Trim() {
  absl::StatusOr<RangeResponse> range =
      store_.Range(RangeRequest::Prefix(kEvents));
  if (!range.ok()) return FromStore(range.status());
  if (range->entries.size() < kKept + kSlack) return absl::OkStatus();
  const size_t surplus = range->entries.size() - kKept;
  for (size_t i = 0; i < surplus;) {
    TxnRequest txn;
    for (const size_t end = std::min(surplus, i + 2 * kSlack); i < end; ++i) {
      txn.then_ops.push_back(Op::Delete(range->entries[i]->key));
    }
    const absl::StatusOr<TxnResponse> response = store_.Txn(std::move(txn));
    if (!response.ok()) return FromStore(response.status());
  }
  return absl::OkStatus();
}

}  // namespace mycelium::fabric
