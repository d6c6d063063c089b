#include "bench/fabric/client.h"

#include <fcntl.h>
#include <spawn.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <csignal>
#include <ctime>

#include "absl/status/statusor.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "absl/time/clock.h"
#include "lib/base/clock.h"
#include "lib/base/file.h"

extern char** environ;

namespace mycelium::bench {

absl::Duration Now() { return Clock::Real()->Monotonic(); }

Process::Process(const std::vector<std::string>& words,
                 const std::string& log) {
  std::vector<std::string> copy = words;
  std::vector<char*> argv;
  for (std::string& word : copy) argv.push_back(word.data());
  argv.push_back(nullptr);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, log.c_str(),
                                   O_WRONLY | O_CREAT | O_TRUNC, 0644);
  posix_spawn_file_actions_adddup2(&actions, STDOUT_FILENO, STDERR_FILENO);
  if (posix_spawn(&pid_, argv[0], &actions, nullptr, argv.data(), environ) !=
      0) {
    pid_ = -1;
  }
  posix_spawn_file_actions_destroy(&actions);
}

Process::~Process() {
  if (pid_ <= 0) return;
  kill(pid_, SIGKILL);
  waitpid(pid_, nullptr, 0);
}

absl::Duration Process::Cpu() const {
  clockid_t clock;
  timespec time;
  if (pid_ <= 0 || clock_getcpuclockid(pid_, &clock) != 0 ||
      clock_gettime(clock, &time) != 0) {
    return absl::ZeroDuration();
  }
  return absl::DurationFromTimespec(time);
}

int64_t Process::MemoryKb() const {
  const absl::StatusOr<std::string> status =
      ReadFile(absl::StrCat("/proc/", pid_, "/status"));
  if (!status.ok()) return 0;
  for (absl::string_view line : absl::StrSplit(*status, '\n')) {
    if (!absl::ConsumePrefix(&line, "VmRSS:")) continue;
    int64_t kb = 0;
    if (absl::SimpleAtoi(absl::StripSuffix(line, " kB"), &kb)) return kb;
  }
  return 0;
}

FabricProcess::FabricProcess(const std::string& binary,
                             const std::string& directory)
    : process_({binary, "--listen=127.0.0.1:0",
                absl::StrCat("--port_file=", directory, "/port"),
                absl::StrCat("--data_dir=", directory, "/fabric")},
               absl::StrCat(directory, "/fabric.log")) {
  for (int i = 0; i < 1000 && address_.empty(); ++i) {
    const absl::StatusOr<std::string> text =
        ReadFile(absl::StrCat(directory, "/port"));
    if (text.ok()) address_ = std::string(absl::StripSuffix(*text, "\n"));
    absl::SleepFor(absl::Milliseconds(10));
  }
}

std::string FabricBinary(const std::string& argv0) {
  return absl::StrCat(argv0.substr(0, argv0.rfind("bench/fabric/")),
                      "services/fabric/fabric");
}

void RaiseFileLimit() {
  rlimit limit;
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_NOFILE, &limit);
}

int64_t CountElements(const grpc::ByteBuffer& bytes, int field) {
  std::vector<grpc::Slice> slices;
  if (!bytes.Dump(&slices).ok()) return 0;
  std::string text;
  for (const grpc::Slice& slice : slices) {
    text.append(reinterpret_cast<const char*>(slice.begin()), slice.size());
  }
  int64_t count = 0;
  size_t at = 0;
  const auto varint = [&] {
    uint64_t value = 0;
    for (int shift = 0; at < text.size() && shift < 64; shift += 7) {
      const auto byte = static_cast<unsigned char>(text[at++]);
      value |= uint64_t{byte & 0x7fu} << shift;
      if (byte < 0x80) break;
    }
    return value;
  };
  while (at < text.size()) {
    const uint64_t tag = varint();
    const uint64_t value = varint();
    if ((tag & 7) == 2) at += value;
    if (tag >> 3 == static_cast<uint64_t>(field)) ++count;
  }
  return count;
}

double Percentile(std::vector<double> values, double share) {
  if (values.empty()) return 0;
  const size_t at =
      std::min(values.size() - 1,
               static_cast<size_t>(share * static_cast<double>(values.size())));
  std::nth_element(values.begin(),
                   values.begin() + static_cast<std::ptrdiff_t>(at),
                   values.end());
  return values[at];
}

RawStream::RawStream(const std::shared_ptr<grpc::Channel>& channel,
                     const std::string& method,
                     const google::protobuf::MessageLite& request,
                     bool half_close,
                     std::function<void(grpc::ByteBuffer*)> take)
    : take_(std::move(take)), stub_(channel) {
  const std::string bytes = request.SerializeAsString();
  const grpc::Slice slice(bytes);
  request_ = grpc::ByteBuffer(&slice, 1);
  context_.set_wait_for_ready(true);
  stub_.PrepareBidiStreamingCall(&context_, method, grpc::StubOptions(), this);
  if (half_close) {
    StartWriteLast(&request_, grpc::WriteOptions());
  } else {
    StartWrite(&request_);
  }
  StartRead(&response_);
  StartCall();
}

RawStream::~RawStream() {
  context_.TryCancel();
  MutexLock lock(mutex_);
  while (!done_) changed_.Wait(mutex_);
}

void RawStream::OnReadDone(bool ok) {
  if (!ok) return;
  take_(&response_);
  response_.Clear();
  StartRead(&response_);
}

void RawStream::OnDone(const grpc::Status& /*status*/) {
  MutexLock lock(mutex_);
  done_ = true;
  changed_.NotifyAll();
}

}  // namespace mycelium::bench
