// Measures Put and Get of a real repo process over loopback, in bytes a second,
// beside what the machine can do: SHA-256 on one core (`openssl speed`) and a
// plain copy of the same file with fsync.
//
//   bazel build //bench/repo:repo_bench && bazel-bin/bench/repo/repo_bench
//
// The rounds are interleaved, so that a change of the machine's load strikes
// all of them. Put is measured twice: with the data directory on a disk
// (--dir), where each Put ends with an fsync, and in memory (--memory_dir),
// which leaves out the disk.

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "absl/time/time.h"
#include "gflags/gflags.h"
#include "grpcpp/generic/generic_stub.h"
#include "grpcpp/grpcpp.h"
#include "lib/base/clock.h"
#include "lib/base/file.h"
#include "lib/base/mutex.h"
#include "lib/base/status_macros.h"
#include "lib/crypto/ed25519.h"
#include "lib/rpc/channel.h"
#include "lib/rpc/status.h"
#include "lib/spore/pack.h"
#include "mycelium/repo/v1/repo.grpc.pb.h"
#include "services/repo/repo_process.h"

DEFINE_string(repo, "", "the repo's binary; found beside this one if unset");
DEFINE_string(dir, "/tmp", "directory on the disk to measure");
DEFINE_string(memory_dir, "/dev/shm", "directory in memory");
DEFINE_int64(size_mb, 512, "size of the spore in MiB, 1 to 2000");
DEFINE_int32(rounds, 5, "rounds, 1 to 1000");
DEFINE_string(
    only, "",
    "what to measure, for a profiler: sha256, copy, put, put_plainly, "
    "put_memory or get; all if unset");
DEFINE_int32(chunk_kb, 1024, "bytes of a Put message in KiB, 1 to 1024");

namespace mycelium::repo {
namespace {

constexpr absl::Duration kTimeout = absl::Minutes(5);

// Rates of one kind of transfer, in bytes a second.
struct Series {
  std::string name;
  std::vector<double> rates = {};
  // Processor time of the repo for all of them; unset where it takes no part.
  absl::Duration repo_time = absl::ZeroDuration();
  // The same of the client, which is this process.
  absl::Duration client_time = absl::ZeroDuration();

  double Median() const {
    std::vector<double> sorted = rates;
    std::sort(sorted.begin(), sorted.end());
    return sorted.empty() ? 0 : sorted[sorted.size() / 2];
  }
};

absl::Duration OwnProcessorTime() {
  rusage usage = {};
  getrusage(RUSAGE_SELF, &usage);
  return absl::DurationFromTimeval(usage.ru_utime) +
         absl::DurationFromTimeval(usage.ru_stime);
}

double SecondsSince(absl::Duration start) {
  return absl::ToDoubleSeconds(Clock::Real()->Monotonic() - start);
}

// A directory below `parent`, removed with its owner.
absl::StatusOr<TempDirectory> MakeTemp(const std::string& parent) {
  // NOLINTNEXTLINE(concurrency-mt-unsafe): no thread runs yet.
  setenv("TMPDIR", parent.c_str(), 1);
  return TempDirectory::Create("repo_bench.");
}

// A repo and a channel to it.
struct Target {
  std::unique_ptr<RepoProcess> process;
  std::shared_ptr<grpc::Channel> channel;
  std::unique_ptr<v1::Repo::Stub> stub;
};

// A spore in memory.
struct Sample {
  std::string path;
  std::string digest;
  int64_t size_bytes = 0;
  void* mapped = nullptr;

  absl::string_view Bytes() const {
    return {static_cast<const char*>(mapped), static_cast<size_t>(size_bytes)};
  }
};

size_t ChunkBytes() { return static_cast<size_t>(FLAGS_chunk_kb) << 10; }

absl::StatusOr<Sample> MakeSample(const std::string& directory) {
  const std::string binary = JoinPath(directory, "binary");
  {
    std::ofstream out(binary, std::ios::binary);
    std::mt19937_64 random(1);
    std::vector<uint64_t> block((size_t{1} << 20) / sizeof(uint64_t));
    for (int64_t i = 0; i < FLAGS_size_mb; ++i) {
      for (uint64_t& word : block) word = random();
      out.write(reinterpret_cast<const char*>(block.data()), 1 << 20);
    }
    if (!out.flush()) return absl::InternalError("cannot write the sample");
  }
  MYC_ASSIGN_OR_RETURN(const crypto::PrivateKey key,
                       crypto::PrivateKey::Generate());
  spore::PackOptions options;
  options.manifest = spore::JsonValue::MakeObject();
  options.manifest.Set("name", "bench");
  options.manifest.Set("version", "1");
  options.manifest.Set("command", "bench");
  options.created_at = Clock::Real()->Now();
  options.binary_path = binary;
  Sample sample;
  sample.path = JoinPath(directory, "bench.spore");
  MYC_ASSIGN_OR_RETURN(const spore::PackResult packed,
                       spore::PackToPath(options, key, sample.path));
  sample.digest = packed.digest;
  sample.size_bytes = packed.size_bytes;
  unlink(binary.c_str());
  const UniqueFd fd(open(sample.path.c_str(), O_RDONLY | O_CLOEXEC));
  sample.mapped = mmap(nullptr, static_cast<size_t>(sample.size_bytes),
                       PROT_READ, MAP_SHARED | MAP_POPULATE, fd.get(), 0);
  if (sample.mapped == MAP_FAILED) return ErrnoStatus(errno, "cannot map");
  return sample;
}

absl::StatusOr<double> Sha256Rate() {
  const std::unique_ptr<FILE, int (*)(FILE*)> pipe(
      // A benchmark's own, constant command.
      // NOLINTNEXTLINE(cert-env33-c,concurrency-mt-unsafe)
      popen(
          "openssl speed -mr -evp sha256 -bytes 1048576 -seconds 1 2>/dev/null",
          "r"),
      pclose);
  std::array<char, 256> line;
  double rate = 0;
  while (pipe != nullptr &&
         fgets(line.data(), line.size(), pipe.get()) != nullptr) {
    // +F:22:sha256:1793278960.00
    const std::vector<std::string> fields =
        absl::StrSplit(absl::StripSuffix(line.data(), "\n"), ':');
    if (fields.size() == 4 && fields[0] == "+F" &&
        absl::SimpleAtod(fields[3], &rate)) {
      return rate;
    }
  }
  return absl::UnavailableError(
      "openssl speed gave no figure; is openssl there?");
}

// Copies as cp does, and syncs. Adds to the two series.
absl::Status Copy(const Sample& sample, const std::string& to, Series& copied,
                  Series& synced) {
  const UniqueFd in(open(sample.path.c_str(), O_RDONLY | O_CLOEXEC));
  const UniqueFd out(
      open(to.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644));
  if (!in.valid() || !out.valid()) return ErrnoStatus(errno, "cannot copy");
  std::vector<char> buffer(size_t{1} << 20);
  const absl::Duration start = Clock::Real()->Monotonic();
  while (true) {
    const ssize_t got = read(in.get(), buffer.data(), buffer.size());
    if (got < 0) return ErrnoStatus(errno, "cannot read the sample");
    if (got == 0) break;
    MYC_RETURN_IF_ERROR(
        WriteFully(out.get(), {buffer.data(), static_cast<size_t>(got)}));
  }
  const double size = static_cast<double>(sample.size_bytes);
  copied.rates.push_back(size / SecondsSince(start));
  if (fsync(out.get()) != 0) return ErrnoStatus(errno, "cannot sync the copy");
  synced.rates.push_back(size / SecondsSince(start));
  unlink(to.c_str());
  return absl::OkStatus();
}

absl::StatusOr<double> PutRate(const v1::PutResponse& response,
                               const Sample& sample, absl::Duration start) {
  const double seconds = SecondsSince(start);
  if (response.existed()) return absl::InternalError("the spore was there");
  return static_cast<double>(sample.size_bytes) / seconds;
}

// Puts as every program can: through the generated classes, which copy each
// chunk twice.
absl::StatusOr<double> PutPlainly(const Target& target, const Sample& sample) {
  grpc::ClientContext context;
  rpc::SetDeadline(context, kTimeout);
  const absl::Duration start = Clock::Real()->Monotonic();
  v1::PutResponse response;
  const std::unique_ptr<grpc::ClientWriterInterface<v1::PutRequest>> writer =
      target.stub->Put(&context, &response);
  v1::PutRequest request;
  request.mutable_header()->set_digest(sample.digest);
  request.mutable_header()->set_size_bytes(sample.size_bytes);
  bool open = writer->Write(request);
  for (absl::string_view rest = sample.Bytes(); open && !rest.empty();) {
    const absl::string_view chunk = rest.substr(0, ChunkBytes());
    rest.remove_prefix(chunk.size());
    request.set_chunk(std::string(chunk));
    open = writer->Write(request);
  }
  writer->WritesDone();
  MYC_RETURN_IF_ERROR(rpc::ToAbslStatus(writer->Finish()));
  return PutRate(response, sample, start);
}

// Sends a spore from memory without copying it.
class PutReactor final
    : public grpc::ClientBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer> {
 public:
  PutReactor(const Target& target, const Sample& sample)
      : rest_(sample.Bytes()) {
    rpc::SetDeadline(context_, kTimeout);
    v1::PutRequest header;
    header.mutable_header()->set_digest(sample.digest);
    header.mutable_header()->set_size_bytes(sample.size_bytes);
    const grpc::Slice slice(header.SerializeAsString());
    message_ = grpc::ByteBuffer(&slice, 1);
    grpc::TemplatedGenericStub<grpc::ByteBuffer, grpc::ByteBuffer>(
        target.channel)
        .PrepareBidiStreamingCall(
            &context_, absl::StrCat("/", v1::Repo::service_full_name(), "/Put"),
            {}, this);
    StartWrite(&message_);
    StartRead(&answer_);
    StartCall();
  }

  void OnWriteDone(bool ok) override {
    if (!ok) return;
    if (rest_.empty()) {
      StartWritesDone();
      return;
    }
    const absl::string_view chunk = rest_.substr(0, ChunkBytes());
    rest_.remove_prefix(chunk.size());
    // PutRequest.chunk: its tag and length, then the bytes as they are.
    std::string prefix = "\x12";
    size_t length = chunk.size();
    for (; length >= 0x80; length >>= 7) {
      prefix.push_back(static_cast<char>(length | 0x80));
    }
    prefix.push_back(static_cast<char>(length));
    const std::array<grpc::Slice, 2> slices = {
        grpc::Slice(prefix),
        grpc::Slice(chunk.data(), chunk.size(), grpc::Slice::STATIC_SLICE)};
    message_ = grpc::ByteBuffer(slices.data(), slices.size());
    StartWrite(&message_);
  }

  void OnDone(const grpc::Status& status) override {
    MutexLock lock(mutex_);
    status_ = rpc::ToAbslStatus(status);
    done_ = true;
    changed_.NotifyAll();
  }

  absl::StatusOr<v1::PutResponse> Wait() {
    MutexLock lock(mutex_);
    while (!done_) changed_.Wait(mutex_);
    MYC_RETURN_IF_ERROR(status_);
    std::vector<grpc::Slice> slices;
    v1::PutResponse response;
    std::string bytes;
    if (!answer_.Dump(&slices).ok()) return absl::InternalError("no answer");
    for (const grpc::Slice& slice : slices) {
      bytes.append(reinterpret_cast<const char*>(slice.begin()), slice.size());
    }
    if (!response.ParseFromString(bytes))
      return absl::InternalError("no answer");
    return response;
  }

 private:
  grpc::ClientContext context_;
  absl::string_view rest_;
  grpc::ByteBuffer message_;
  grpc::ByteBuffer answer_;

  Mutex mutex_;
  CondVar changed_;
  bool done_ = false;
  absl::Status status_;
};

absl::StatusOr<double> Put(const Target& target, const Sample& sample) {
  const absl::Duration start = Clock::Real()->Monotonic();
  PutReactor reactor(target, sample);
  MYC_ASSIGN_OR_RETURN(const v1::PutResponse response, reactor.Wait());
  return PutRate(response, sample, start);
}

absl::StatusOr<double> Get(const Target& target, const Sample& sample) {
  grpc::ClientContext context;
  rpc::SetDeadline(context, kTimeout);
  v1::GetRequest request;
  request.set_digest(sample.digest);
  const absl::Duration start = Clock::Real()->Monotonic();
  const std::unique_ptr<grpc::ClientReaderInterface<v1::GetResponse>> reader =
      target.stub->Get(&context, request);
  v1::GetResponse response;
  int64_t received = 0;
  while (reader->Read(&response)) {
    received += static_cast<int64_t>(response.chunk().size());
  }
  MYC_RETURN_IF_ERROR(rpc::ToAbslStatus(reader->Finish()));
  const double seconds = SecondsSince(start);
  if (received != sample.size_bytes) return absl::DataLossError("short Get");
  return static_cast<double>(sample.size_bytes) / seconds;
}

absl::Status Delete(const Target& target, const Sample& sample) {
  grpc::ClientContext context;
  rpc::SetDeadline(context, kTimeout);
  v1::DeleteRequest request;
  request.set_digest(sample.digest);
  request.set_force(true);
  v1::DeleteResponse response;
  return rpc::ToAbslStatus(target.stub->Delete(&context, request, &response));
}

absl::StatusOr<Target> StartTarget(const std::string& binary,
                                   const std::string& directory) {
  Target target;
  MYC_ASSIGN_OR_RETURN(target.process, RepoProcess::Start(binary, directory));
  MYC_ASSIGN_OR_RETURN(target.channel,
                       rpc::Connect(target.process->address(), {}));
  target.stub = v1::Repo::NewStub(target.channel);
  return target;
}

using Transfer = absl::StatusOr<double>(const Target&, const Sample&);

absl::Status Measure(Transfer& transfer, const Target& target,
                     const Sample& sample, Series& series) {
  const absl::Duration before = target.process->ProcessorTime();
  const absl::Duration own_before = OwnProcessorTime();
  MYC_ASSIGN_OR_RETURN(const double rate, transfer(target, sample));
  series.rates.push_back(rate);
  series.repo_time += target.process->ProcessorTime() - before;
  series.client_time += OwnProcessorTime() - own_before;
  return absl::OkStatus();
}

void Print(const Series& series, double sha256_rate, int64_t size_bytes) {
  if (series.rates.empty()) return;
  const auto [low, high] =
      std::minmax_element(series.rates.begin(), series.rates.end());
  std::printf("%-34s %8.1f %8.1f %8.1f", series.name.c_str(), *low / 1e6,
              series.Median() / 1e6, *high / 1e6);
  if (sha256_rate > 0) {
    std::printf(" %7.0f %%", 100 * series.Median() / sha256_rate);
  }
  if (series.repo_time > absl::ZeroDuration()) {
    const double bytes = static_cast<double>(size_bytes) *
                         static_cast<double>(series.rates.size());
    std::printf(" %8.2f s %8.2f s",
                absl::ToDoubleSeconds(series.repo_time) * 1e9 / bytes,
                absl::ToDoubleSeconds(series.client_time) * 1e9 / bytes);
  }
  std::printf("\n");
}

absl::Status Run(const std::string& binary) {
  MYC_ASSIGN_OR_RETURN(const TempDirectory disk, MakeTemp(FLAGS_dir));
  MYC_ASSIGN_OR_RETURN(const TempDirectory memory, MakeTemp(FLAGS_memory_dir));
  MYC_ASSIGN_OR_RETURN(const Sample sample, MakeSample(memory.path()));
  MYC_ASSIGN_OR_RETURN(const Target on_disk, StartTarget(binary, disk.path()));
  MYC_ASSIGN_OR_RETURN(const Target in_memory,
                       StartTarget(binary, memory.path()));

  // A repo of its own, so that Get finds what the other two delete.
  MYC_ASSIGN_OR_RETURN(const Target get_only,
                       StartTarget(binary, JoinPath(disk.path(), "get")));

  Series sha256{.name = "openssl speed sha256, one stream"};
  Series copy{.name = "file copy"};
  Series copy_sync{.name = "file copy with fsync"};
  Series put{.name = "Put (durable)"};
  Series put_memory{.name = "Put (data directory in memory)"};
  Series put_plainly{.name = "Put (durable), generated classes"};
  Series get_cold{.name = "Get, first after Put: from disk"};
  Series get{.name = "Get"};
  const auto measures = [](absl::string_view what) {
    return FLAGS_only.empty() || FLAGS_only == what;
  };
  for (int round = 0; round < FLAGS_rounds; ++round) {
    if (measures("sha256")) {
      MYC_ASSIGN_OR_RETURN(const double rate, Sha256Rate());
      sha256.rates.push_back(rate);
    }
    if (measures("copy")) {
      MYC_RETURN_IF_ERROR(
          Copy(sample, JoinPath(disk.path(), "copy"), copy, copy_sync));
    }
    if (measures("put")) {
      MYC_RETURN_IF_ERROR(Measure(Put, on_disk, sample, put));
      MYC_RETURN_IF_ERROR(Measure(Get, on_disk, sample, get_cold));
      MYC_RETURN_IF_ERROR(Delete(on_disk, sample));
    }
    if (measures("put_plainly")) {
      MYC_RETURN_IF_ERROR(Measure(PutPlainly, on_disk, sample, put_plainly));
      MYC_RETURN_IF_ERROR(Delete(on_disk, sample));
    }
    if (measures("put_memory")) {
      MYC_RETURN_IF_ERROR(Measure(Put, in_memory, sample, put_memory));
      MYC_RETURN_IF_ERROR(Delete(in_memory, sample));
    }
    if (measures("get")) {
      if (round == 0) {
        MYC_RETURN_IF_ERROR(Put(get_only, sample).status());
        MYC_RETURN_IF_ERROR(Get(get_only, sample).status());
      }
      MYC_RETURN_IF_ERROR(Measure(Get, get_only, sample, get));
    }
  }
  std::printf(
      "spore of %ld MiB, %d rounds, %ld cores; MB/s, and processor time a GB\n",
      FLAGS_size_mb, FLAGS_rounds, sysconf(_SC_NPROCESSORS_ONLN));
  std::printf("%-34s %8s %8s %8s %9s %10s %10s\n", "", "min", "median", "max",
              "of sha256", "repo CPU", "client CPU");
  for (const Series* series : {&sha256, &copy, &copy_sync, &put, &put_plainly,
                               &put_memory, &get_cold, &get}) {
    Print(*series, sha256.Median(), sample.size_bytes);
  }
  std::printf("peak resident memory of the repo: %ld KiB\n",
              on_disk.process->PeakResidentKib());
  return absl::OkStatus();
}

std::string FindRepo(const std::string& self) {
  for (const std::string& root :
       {absl::StrCat(self, ".runfiles/mycelium_mesh/"),
        self.substr(0, self.rfind("bench/repo/"))}) {
    std::string path = absl::StrCat(root, "services/repo/repo");
    if (access(path.c_str(), X_OK) == 0) return path;
  }
  return "services/repo/repo";
}

}  // namespace
}  // namespace mycelium::repo

int main(int argc, char** argv) {
  gflags::SetUsageMessage("measures Put and Get of a repo");
  gflags::ParseCommandLineFlags(&argc, &argv, /*remove_flags=*/true);
  const std::string binary =
      FLAGS_repo.empty() ? mycelium::repo::FindRepo(argv[0]) : FLAGS_repo;
  if (const absl::Status status = mycelium::repo::Run(binary); !status.ok()) {
    std::fprintf(stderr, "repo_bench: %s\n", status.ToString().c_str());
    return 1;
  }
  return 0;
}
