// Where the fabric keeps what in its store. Prefixes end in '/', and neither
// app names nor ids contain one, so no prefix is part of another's names.
//
//   /plans/APP                    Plan, without what the fabric derives
//   /counts/APP                   wanted count of ScaleApp, decimal
//   /generations/APP              last generation, decimal; outlives the plan
//   /budgets/APP                  Budget
//   /admissions/APP               written by each claim under a budget, so that
//                                 two claims of one app never pass together
//   /slots/APP/INDEX/GENERATION   Slot as the reconciler wants it
//   /claims/APP/INDEX/GENERATION  Slot as its holder reports it; agent's lease
//   /endpoints/APP/INSTANCE       Endpoint; agent's lease
//   /nodes/NODE                   Node, durable
//   /alive/NODE                   READY or SUSPECT; agent's lease
//   /edges/EDGE                   EdgeInfo; edge's lease
//   /events/SEQUENCE/APP          Event; APP may be empty
//   /requests/METHOD/ID           answers of writes with a request id; a lease
#ifndef SERVICES_FABRIC_KEYS_H_
#define SERVICES_FABRIC_KEYS_H_

#include <cstdint>
#include <optional>
#include <string>

#include "absl/strings/string_view.h"

namespace mycelium::fabric {

inline constexpr absl::string_view kPlans = "/plans/";
inline constexpr absl::string_view kCounts = "/counts/";
inline constexpr absl::string_view kGenerations = "/generations/";
inline constexpr absl::string_view kBudgets = "/budgets/";
inline constexpr absl::string_view kAdmissions = "/admissions/";
inline constexpr absl::string_view kSlots = "/slots/";
inline constexpr absl::string_view kClaims = "/claims/";
inline constexpr absl::string_view kEndpoints = "/endpoints/";
inline constexpr absl::string_view kNodes = "/nodes/";
inline constexpr absl::string_view kAlive = "/alive/";
inline constexpr absl::string_view kEdges = "/edges/";
inline constexpr absl::string_view kEvents = "/events/";
inline constexpr absl::string_view kRequests = "/requests/";

// `prefix` followed by `name`.
std::string KeyOf(absl::string_view prefix, absl::string_view name);

// The identity of a slot.
struct SlotId {
  std::string app;
  int32_t index = 0;
  int64_t generation = 0;

  // "APP/INDEX/GENERATION", as watches name a deleted slot.
  std::string ToString() const;

  friend bool operator==(const SlotId& a, const SlotId& b) {
    return a.index == b.index && a.generation == b.generation && a.app == b.app;
  }
};

// The name of a slot below kSlots and kClaims, with its numbers padded so that
// keys sort as the numbers do.
std::string SlotName(const SlotId& id);

// The reverse of SlotName; nullopt for what SlotName does not make.
std::optional<SlotId> ParseSlotName(absl::string_view name);

// The name of an endpoint below kEndpoints.
std::string EndpointName(absl::string_view app, absl::string_view instance);

// The name of an event below kEvents.
std::string EventName(int64_t sequence, absl::string_view app);

// The app in the name of an event.
absl::string_view EventAppOf(absl::string_view name);

// The sequence number in the name of an event; 0 if there is none.
int64_t EventSequenceOf(absl::string_view name);

// What comes before the first '/' of a name: its app.
absl::string_view AppOf(absl::string_view name);

// A lease as clients see it: 16 hex digits.
std::string FormatLease(int64_t lease);

// The reverse of FormatLease; 0, which is no lease, for everything else.
int64_t ParseLease(absl::string_view text);

}  // namespace mycelium::fabric

#endif  // SERVICES_FABRIC_KEYS_H_
