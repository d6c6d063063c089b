// What a plan changes, and the command line that says it.

#ifndef TOOLS_MESHCTL_PLAN_DIFF_H_
#define TOOLS_MESHCTL_PLAN_DIFF_H_

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "mycelium/fabric/v1/fabric.pb.h"

namespace mycelium::meshctl {

struct PlanChange {
  std::string field;
  std::string before;  // Empty if there was no plan.
  std::string after;   // Both empty if the field does not change.
  bool changed = false;
  // Whether instances are replaced because of it.
  bool replaces = false;
};

// What an author of a plan sets, as names and values in the order of the
// contract; unset parts of strategy and placement are left out.
std::vector<std::pair<std::string, std::string>> PlanFields(
    const fabric::v1::Plan& plan);

// Every field of `after` and how it differs from `before`, which may be null.
std::vector<PlanChange> DiffPlans(const fabric::v1::Plan* before,
                                  const fabric::v1::Plan& after);

// The `meshctl apply` line that makes `plan` of `before` (null if there is
// none), if that is still at `revision`. What no flag can take away (parts of
// the strategy and the placement, and the balancing) is left out of the line.
std::string ApplyLine(const fabric::v1::Plan* before,
                      const fabric::v1::Plan& plan, int64_t revision);

}  // namespace mycelium::meshctl

#endif  // TOOLS_MESHCTL_PLAN_DIFF_H_
