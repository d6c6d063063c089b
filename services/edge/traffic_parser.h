#ifndef SERVICES_EDGE_TRAFFIC_PARSER_H_
#define SERVICES_EDGE_TRAFFIC_PARSER_H_

#include <string>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "mycelium/fabric/v1/fabric.pb.h"
#include "services/edge/balancer.h"
#include "services/edge/traffic_policy.h"

namespace mycelium::edge {

// The policy that `traffic` asks for. A way of balancing that is not set, or
// not known here, is `balancing`.
//
// InvalidArgument: a value is out of its range; the message names it.
absl::StatusOr<TrafficPolicy> TrafficPolicyOf(
    const fabric::v1::Traffic& traffic, BalancePolicy balancing);

// Policies by app from `app=JSON[;app=JSON...]`, each JSON a Traffic message,
// for a mesh without a fabric.
//
// InvalidArgument: the text is none such.
absl::StatusOr<absl::flat_hash_map<std::string, TrafficPolicy>>
ParseStaticTraffic(absl::string_view text, BalancePolicy balancing);

}  // namespace mycelium::edge

#endif  // SERVICES_EDGE_TRAFFIC_PARSER_H_
