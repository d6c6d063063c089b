#include "tools/meshctl/instances.h"

#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "lib/base/ids.h"
#include "lib/base/status_macros.h"
#include "tools/meshctl/console.h"
#include "tools/meshctl/failure.h"
#include "tools/meshctl/mesh_client.h"

namespace mycelium::meshctl {

absl::StatusOr<std::vector<fabric::v1::Node>> ReachableNodes(MeshClient& mesh) {
  MYC_ASSIGN_OR_RETURN(Listed<fabric::v1::Node> nodes, mesh.ListNodes());
  std::vector<fabric::v1::Node> reachable;
  for (fabric::v1::Node& node : nodes.items) {
    if ((node.state() == fabric::v1::Node::STATE_READY ||
         node.state() == fabric::v1::Node::STATE_SUSPECT) &&
        !node.address().empty()) {
      reachable.push_back(std::move(node));
    }
  }
  return reachable;
}

absl::StatusOr<std::vector<NodeInstance>> AllInstances(MeshClient& mesh,
                                                       Console& console,
                                                       const std::string& app) {
  MYC_ASSIGN_OR_RETURN(const std::vector<fabric::v1::Node> nodes,
                       ReachableNodes(mesh));
  std::vector<NodeInstance> found;
  absl::Status failure;
  size_t answered = 0;
  for (const fabric::v1::Node& node : nodes) {
    auto instances = mesh.ListInstances(node.address(), app);
    if (!instances.ok()) {
      failure = instances.status();
      console.Note(absl::StrCat("! ", node.node_id(), ": ", failure.message()));
      continue;
    }
    ++answered;
    for (agent::v1::Instance& instance : *instances) {
      found.push_back({node.node_id(), node.address(), std::move(instance)});
    }
  }
  if (answered == 0 && !nodes.empty()) return failure;
  return found;
}

absl::StatusOr<NodeInstance> FindInstance(MeshClient& mesh, Console& console,
                                          const std::string& id) {
  MYC_ASSIGN_OR_RETURN(std::vector<NodeInstance> all,
                       AllInstances(mesh, console, ""));
  std::vector<NodeInstance> matches;
  for (NodeInstance& candidate : all) {
    if (candidate.instance.instance_id() == id) return std::move(candidate);
    if (absl::StartsWith(candidate.instance.instance_id(), id)) {
      matches.push_back(std::move(candidate));
    }
  }
  if (matches.size() == 1) return std::move(matches[0]);
  if (matches.empty()) {
    return ToStatus(
        {.exit = ExitCode::kNotFound,
         .message = absl::StrCat("no node has an instance ", Quoted(id)),
         .fixes = {"see them all:  meshctl instances"}});
  }
  return UsageError(absl::StrCat(Quoted(id), " stands for ", matches.size(),
                                 " instances; give more of its id"));
}

}  // namespace mycelium::meshctl
