#include "services/agent/process_record.h"

#include <map>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "lib/base/file.h"
#include "lib/base/ids.h"
#include "lib/base/status_macros.h"

namespace mycelium::agent {
namespace {

constexpr absl::string_view kHead = "mycelium-process 1";
constexpr absl::string_view kEnd = "end";

}  // namespace

std::string ProcessRecord::Serialize() const {
  return absl::StrCat(kHead, "\ninstance_id ", instance_id, "\nrun ", run,
                      "\nboot_id ", boot_id, "\npid ", pid, "\nstart_ticks ",
                      start_ticks, "\ncgroup ", cgroup, "\n", kEnd, "\n");
}

absl::StatusOr<ProcessRecord> ProcessRecord::Parse(absl::string_view text) {
  const std::vector<absl::string_view> lines = absl::StrSplit(text, '\n');
  // The last one is empty: the text ends in a newline.
  if (lines.size() < 3 || lines.front() != kHead || !lines.back().empty() ||
      lines[lines.size() - 2] != kEnd) {
    return absl::InvalidArgumentError("not a whole process record");
  }
  std::map<absl::string_view, absl::string_view> fields;
  for (size_t i = 1; i + 2 < lines.size(); ++i) {
    const std::pair<absl::string_view, absl::string_view> field =
        absl::StrSplit(lines[i], absl::MaxSplits(' ', 1));
    fields.insert(field);
  }
  ProcessRecord record;
  record.instance_id = std::string(fields["instance_id"]);
  record.boot_id = std::string(fields["boot_id"]);
  record.cgroup = std::string(fields["cgroup"]);
  if (!IsId(record.instance_id) || record.boot_id.empty() ||
      !absl::SimpleAtoi(fields["run"], &record.run) ||
      !absl::SimpleAtoi(fields["pid"], &record.pid) || record.pid <= 1 ||
      !absl::SimpleAtoi(fields["start_ticks"], &record.start_ticks)) {
    return absl::InvalidArgumentError("a field of the process record is wrong");
  }
  return record;
}

absl::StatusOr<std::string> ReadBootId() {
  MYC_ASSIGN_OR_RETURN(const std::string text,
                       ReadFile("/proc/sys/kernel/random/boot_id"));
  return std::string(absl::StripAsciiWhitespace(text));
}

absl::StatusOr<ProcessStat> ReadProcessStat(int64_t pid) {
  MYC_ASSIGN_OR_RETURN(const std::string text,
                       ReadFile(absl::StrCat("/proc/", pid, "/stat")));
  // The second field is the program's name in parentheses, and may itself hold
  // spaces and parentheses.
  const size_t name_end = text.rfind(')');
  if (name_end == std::string::npos) {
    return absl::InternalError(absl::StrCat("/proc/", pid, "/stat is odd"));
  }
  const std::vector<absl::string_view> fields = absl::StrSplit(
      absl::string_view(text).substr(name_end + 1), ' ', absl::SkipEmpty());
  constexpr size_t kStartTime = 19;  // Field 22; these begin with field 3.
  ProcessStat stat;
  stat.pid = pid;
  if (fields.size() <= kStartTime || fields[0].size() != 1 ||
      !absl::SimpleAtoi(fields[1], &stat.parent) ||
      !absl::SimpleAtoi(fields[2], &stat.group) ||
      !absl::SimpleAtoi(fields[3], &stat.session) ||
      !absl::SimpleAtoi(fields[kStartTime], &stat.start_ticks)) {
    return absl::InternalError(absl::StrCat("/proc/", pid, "/stat is odd"));
  }
  stat.state = fields[0][0];
  return stat;
}

}  // namespace mycelium::agent
