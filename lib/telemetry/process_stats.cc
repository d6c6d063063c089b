#include "lib/telemetry/process_stats.h"

#include <dirent.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

namespace mycelium::telemetry {
namespace {

// Fields of proc(5)'s /proc/[pid]/stat, counted from the one after the name.
constexpr size_t kUserTicks = 11;
constexpr size_t kSystemTicks = 12;
constexpr size_t kThreads = 17;
constexpr size_t kStartTicks = 19;
constexpr size_t kVirtualBytes = 20;
constexpr size_t kResidentPages = 21;

std::vector<std::string> StatFields() {
  std::ifstream file("/proc/self/stat");
  std::string line;
  std::getline(file, line);
  // The name is in parentheses, and may hold any character, these too.
  const size_t name_end = line.rfind(')');
  std::vector<std::string> fields;
  if (name_end == std::string::npos) return fields;
  std::istringstream rest(line.substr(name_end + 1));
  for (std::string field; rest >> field;) fields.push_back(field);
  return fields;
}

double BootSeconds() {
  std::ifstream file("/proc/stat");
  for (std::string line; std::getline(file, line);) {
    if (line.rfind("btime ", 0) == 0) return std::atof(line.c_str() + 6);
  }
  return 0;
}

int64_t OpenFds() {
  // Since Linux 6.2 the directory's size is the number; before, it was 0.
  struct stat info {};
  if (stat("/proc/self/fd", &info) == 0 && info.st_size > 0)
    return info.st_size;
  DIR* const directory = opendir("/proc/self/fd");
  if (directory == nullptr) return 0;
  int64_t count = 0;
  // Safe: the stream is this function's own.
  // NOLINTNEXTLINE(concurrency-mt-unsafe)
  while (const dirent* const entry = readdir(directory)) {
    if (entry->d_name[0] != '.') ++count;
  }
  closedir(directory);
  return count - 1;  // Without the directory itself.
}

}  // namespace

ProcessStats ReadProcessStats() {
  ProcessStats stats;
  const std::vector<std::string> fields = StatFields();
  const auto field = [&fields](size_t index) {
    return index < fields.size() ? std::atoll(fields[index].c_str()) : 0;
  };
  const auto ticks = static_cast<double>(sysconf(_SC_CLK_TCK));
  stats.cpu_seconds =
      static_cast<double>(field(kUserTicks) + field(kSystemTicks)) / ticks;
  stats.threads = field(kThreads);
  stats.virtual_bytes = field(kVirtualBytes);
  stats.resident_bytes = field(kResidentPages) * sysconf(_SC_PAGESIZE);
  stats.start_seconds =
      BootSeconds() + static_cast<double>(field(kStartTicks)) / ticks;
  stats.open_fds = OpenFds();
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) == 0)
    stats.max_fds = static_cast<int64_t>(limit.rlim_cur);
  return stats;
}

void AddProcessStats(const ProcessStats& stats, Exposition* out) {
  out->Family("process_cpu_seconds_total", MetricType::kCounter,
              "User and system time of the process.");
  out->Sample({}, stats.cpu_seconds);
  out->Family("process_resident_memory_bytes", MetricType::kGauge,
              "Memory that the process holds.");
  out->Sample({}, stats.resident_bytes);
  out->Family("process_virtual_memory_bytes", MetricType::kGauge,
              "Address space of the process.");
  out->Sample({}, stats.virtual_bytes);
  out->Family("process_threads", MetricType::kGauge, "Threads.");
  out->Sample({}, stats.threads);
  out->Family("process_open_fds", MetricType::kGauge, "Open descriptors.");
  out->Sample({}, stats.open_fds);
  out->Family("process_max_fds", MetricType::kGauge,
              "Descriptors that may be open.");
  out->Sample({}, stats.max_fds);
  out->Family("process_start_time_seconds", MetricType::kGauge,
              "When the process started, of the Unix epoch.");
  out->Sample({}, stats.start_seconds);
}

}  // namespace mycelium::telemetry
