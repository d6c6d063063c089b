#include "services/agent/cgroup.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "absl/time/clock.h"
#include "lib/base/file.h"
#include "lib/base/status_macros.h"

namespace mycelium::agent {
namespace {

absl::Status WriteControl(const std::string& path, absl::string_view text) {
  const UniqueFd fd(open(path.c_str(), O_WRONLY | O_CLOEXEC));
  if (!fd.valid())
    return ErrnoStatus(errno, absl::StrCat("cannot open ", path));
  return WriteFully(fd.get(), text);
}

// Where the cgroup2 hierarchy is mounted; empty if it is not.
std::string FindMount() {
  const absl::StatusOr<std::string> text = ReadFile("/proc/self/mountinfo");
  if (!text.ok()) return "";
  for (const absl::string_view line : absl::StrSplit(*text, '\n')) {
    // ID PARENT DEVICE ROOT MOUNTPOINT OPTIONS [TAGS] - TYPE SOURCE OPTIONS
    const std::vector<absl::string_view> halves = absl::StrSplit(line, " - ");
    if (halves.size() != 2 || !absl::StartsWith(halves[1], "cgroup2 ")) {
      continue;
    }
    const std::vector<absl::string_view> fields =
        absl::StrSplit(halves[0], ' ');
    if (fields.size() > 4) return std::string(fields[4]);
  }
  return "";
}

// The path of this process in the cgroup2 hierarchy.
std::string FindOwnPath() {
  const absl::StatusOr<std::string> text = ReadFile("/proc/self/cgroup");
  if (!text.ok()) return "/";
  for (absl::string_view line : absl::StrSplit(*text, '\n')) {
    if (absl::ConsumePrefix(&line, "0::")) return std::string(line);
  }
  return "/";
}

// FNV-1a: a name that is the same after a restart, not a secret.
uint64_t Hash(absl::string_view text) {
  uint64_t hash = 0xcbf29ce484222325;
  for (const char c : text) {
    hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3;
  }
  return hash;
}

}  // namespace

absl::StatusOr<std::unique_ptr<CgroupRoot>> CgroupRoot::Create(
    absl::string_view data_directory) {
  const std::string mount = FindMount();
  if (mount.empty()) {
    return absl::UnavailableError("no cgroup2 hierarchy is mounted");
  }
  const std::string own = FindOwnPath();
  const std::string directory =
      absl::StrCat(mount, own == "/" ? "" : own, "/mycelium-",
                   absl::StrFormat("%016x", Hash(data_directory)));
  if (mkdir(directory.c_str(), 0755) != 0 && errno != EEXIST) {
    const int error = errno;
    return absl::UnavailableError(
        ErrnoStatus(error, absl::StrCat("cannot make ", directory)).message());
  }
  const absl::StatusOr<std::vector<std::string>> names =
      ListDirectory(directory);
  if (names.ok()) {
    for (const std::string& name : *names) {
      const std::string left = JoinPath(directory, name);
      struct stat info = {};
      if (stat(left.c_str(), &info) != 0 || !S_ISDIR(info.st_mode)) continue;
      Kill(left);
      Remove(left);
    }
  }
  return std::unique_ptr<CgroupRoot>(new CgroupRoot(directory));
}

CgroupRoot::~CgroupRoot() { rmdir(directory_.c_str()); }

absl::StatusOr<std::string> CgroupRoot::MakeFor(absl::string_view instance_id,
                                                int64_t run) const {
  const std::string cgroup =
      absl::StrCat(directory_, "/", instance_id, ".", run);
  if (mkdir(cgroup.c_str(), 0755) != 0) {
    return ErrnoStatus(errno, absl::StrCat("cannot make ", cgroup));
  }
  return cgroup;
}

absl::Status CgroupRoot::Enter(const std::string& cgroup, int64_t pid) {
  return WriteControl(JoinPath(cgroup, "cgroup.procs"), absl::StrCat(pid));
}

bool CgroupRoot::Kill(const std::string& cgroup) {
  return WriteControl(JoinPath(cgroup, "cgroup.kill"), "1").ok();
}

void CgroupRoot::Remove(const std::string& cgroup) {
  for (int i = 0; i < 100; ++i) {
    if (rmdir(cgroup.c_str()) == 0 || errno != EBUSY) return;
    absl::SleepFor(absl::Milliseconds(2));
  }
}

}  // namespace mycelium::agent
