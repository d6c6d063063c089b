// A real repo process, for tests and benchmarks.

#ifndef SERVICES_REPO_REPO_PROCESS_H_
#define SERVICES_REPO_REPO_PROCESS_H_

#include <sys/types.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace mycelium::repo {

// Runs the binary until it is told to stop or goes out of scope. Not
// thread-safe.
class RepoProcess {
 public:
  // Starts `binary` on a free port with its data in `directory`/data, and waits
  // until it serves. `flags` are added.
  static absl::StatusOr<std::unique_ptr<RepoProcess>> Start(
      const std::string& binary, const std::string& directory,
      const std::vector<std::string>& flags = {});

  // Kills the process if it is still there.
  ~RepoProcess();

  // Where it serves: `HOST:PORT`.
  const std::string& address() const { return address_; }

  // Sends a signal, waits for the end and returns the wait status.
  int Stop(int signal);

  // The peak of its resident memory in KiB (VmHWM).
  int64_t PeakResidentKib() const;

  // Processor time that it has used, in user and kernel mode together.
  absl::Duration ProcessorTime() const;

 private:
  RepoProcess() = default;

  pid_t pid_ = -1;
  std::string address_;
};

}  // namespace mycelium::repo

#endif  // SERVICES_REPO_REPO_PROCESS_H_
