// What the commands do; command_table.cc says how each is called.

#ifndef TOOLS_MESHCTL_COMMANDS_H_
#define TOOLS_MESHCTL_COMMANDS_H_

#include "absl/status/status.h"

namespace mycelium::meshctl {

class Session;

// commands_run.cc
absl::Status Run(Session& session);
absl::Status Down(Session& session);

// commands_spore.cc
absl::Status Keygen(Session& session);
absl::Status Build(Session& session);
absl::Status Verify(Session& session);
absl::Status Inspect(Session& session);
absl::Status Publish(Session& session);
absl::Status TrustInit(Session& session);
absl::Status TrustList(Session& session);
absl::Status TrustAdd(Session& session);
absl::Status TrustRemove(Session& session);
absl::Status RepoList(Session& session);
absl::Status RepoStat(Session& session);
absl::Status RepoRemove(Session& session);
absl::Status RepoCollect(Session& session);

// commands_plan.cc
absl::Status PlanCommand(Session& session);
absl::Status Apply(Session& session);
absl::Status Get(Session& session);
absl::Status List(Session& session);
absl::Status Delete(Session& session);
absl::Status Scale(Session& session);
absl::Status BudgetPut(Session& session);
absl::Status BudgetGet(Session& session);
absl::Status BudgetList(Session& session);
absl::Status BudgetRemove(Session& session);

// commands_look.cc
absl::Status Status(Session& session);
absl::Status Why(Session& session);
absl::Status EndpointList(Session& session);
absl::Status NodeList(Session& session);
absl::Status NodeDrain(Session& session);
absl::Status NodeUndrain(Session& session);
absl::Status NodeCordon(Session& session);
absl::Status NodeRemove(Session& session);
absl::Status InstanceList(Session& session);
absl::Status StopInstance(Session& session);
absl::Status RestartInstance(Session& session);

// commands_stream.cc
absl::Status Logs(Session& session);
absl::Status Events(Session& session);
absl::Status Watch(Session& session);

// commands_self.cc
absl::Status Help(Session& session);
absl::Status Version(Session& session);
absl::Status Completion(Session& session);
absl::Status CompleteWords(Session& session);
absl::Status ContextList(Session& session);
absl::Status ContextShow(Session& session);

}  // namespace mycelium::meshctl

#endif  // TOOLS_MESHCTL_COMMANDS_H_
