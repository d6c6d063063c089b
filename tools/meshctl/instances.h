// Instances of all nodes, asked of their agents.

#ifndef TOOLS_MESHCTL_INSTANCES_H_
#define TOOLS_MESHCTL_INSTANCES_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "mycelium/agent/v1/agent.pb.h"
#include "mycelium/fabric/v1/fabric.pb.h"

namespace mycelium::meshctl {

class Console;
class MeshClient;

struct NodeInstance {
  std::string node_id;
  std::string address;  // Of its agent.
  agent::v1::Instance instance;
};

// The nodes whose agents can be asked.
absl::StatusOr<std::vector<fabric::v1::Node>> ReachableNodes(MeshClient& mesh);

// Instances of one app, or of all if `app` is empty. An agent that does not
// answer is noted on `console` and left out, unless none does.
absl::StatusOr<std::vector<NodeInstance>> AllInstances(MeshClient& mesh,
                                                       Console& console,
                                                       const std::string& app);

// The instance whose id is, or alone begins with, `id`. NOT_FOUND.
absl::StatusOr<NodeInstance> FindInstance(MeshClient& mesh, Console& console,
                                          const std::string& id);

}  // namespace mycelium::meshctl

#endif  // TOOLS_MESHCTL_INSTANCES_H_
