#ifndef SERVICES_AGENT_PROCESS_RECORD_H_
#define SERVICES_AGENT_PROCESS_RECORD_H_

#include <cstdint>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace mycelium::agent {

// What identifies the process of an instance beyond its pid, which the kernel
// gives to others once it is free. Written before the program is executed, so
// that an agent that comes back finds every process of its predecessor and
// mistakes none for one.
struct ProcessRecord {
  std::string instance_id;
  int64_t run = 0;
  // Of the kernel that the process runs on.
  std::string boot_id;
  int64_t pid = 0;
  // When it was started, in clock ticks since boot (field 22 of its stat).
  int64_t start_ticks = 0;
  // Directory of its cgroup; empty if it has none.
  std::string cgroup;

  std::string Serialize() const;
  // InvalidArgument: the text was not written by Serialize, or is not whole.
  static absl::StatusOr<ProcessRecord> Parse(absl::string_view text);

  friend bool operator==(const ProcessRecord&, const ProcessRecord&) = default;
};

// The id of the running kernel's boot.
absl::StatusOr<std::string> ReadBootId();

// What `/proc/PID/stat` says of a process. NotFound: there is none.
struct ProcessStat {
  int64_t pid = 0;
  char state = '?';  // 'Z': it has ended and waits to be reaped.
  int64_t parent = 0;
  int64_t group = 0;
  int64_t session = 0;
  int64_t start_ticks = 0;
};
absl::StatusOr<ProcessStat> ReadProcessStat(int64_t pid);

}  // namespace mycelium::agent

#endif  // SERVICES_AGENT_PROCESS_RECORD_H_
