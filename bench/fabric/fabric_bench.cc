// Measures a real fabric process over loopback, and etcd beside it in the same
// run if it is installed: put -> delivered latency, delivered events a second,
// processor time per delivered event and memory per watcher at 1, 100 and 1,000
// watchers, each on a connection of its own; and durable puts a second.
//
//   bazel build //bench/fabric:fabric_bench
//   bazel-bin/bench/fabric/fabric_bench [--watchers=1,100,1000]
//
// Stores are below $TMPDIR (or /tmp), which chooses the disk.
//
// The client runs on the same machine and takes its share of the processor, for
// both alike. Take ratios, not numbers.

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstdio>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "bench/fabric/client.h"
#include "bench/fabric/etcd.grpc.pb.h"
#include "gflags/gflags.h"
#include "grpcpp/grpcpp.h"
#include "lib/base/file.h"
#include "lib/base/mutex.h"
#include "lib/rpc/channel.h"
#include "mycelium/fabric/v1/fabric.grpc.pb.h"

DEFINE_string(fabric, "",
              "the fabric's binary; found beside this one if unset");
DEFINE_string(etcd, "/usr/bin/etcd", "etcd's binary; skipped if not there");
DEFINE_string(watchers, "1,100,1000", "numbers of watchers");
DEFINE_int32(latency_puts, 100, "puts of which the latency is measured");
DEFINE_double(latency_rate, 20, "of these, so many a second");
DEFINE_double(seconds, 4, "length of each saturated measurement");
DEFINE_int32(rounds, 3, "rounds of the measurements of writers");
DEFINE_int32(keys, 1000, "different keys that are put");
DEFINE_string(only, "", "fabric or etcd; both if unset");

namespace mycelium::bench {
namespace {

// What watchers do with what they are told.
struct Sink {
  std::atomic<int> synced = 0;
  // Changes that were delivered.
  std::atomic<int64_t> delivered = 0;
  // Whether messages are decoded, for the times at which the changes were put.
  std::atomic<bool> sampling = false;
  Mutex mutex;
  std::vector<double> latencies_ms ABSL_GUARDED_BY(mutex);

  void Sample(absl::Duration put_at) {
    const double ms = absl::ToDoubleMilliseconds(Now() - put_at);
    MutexLock lock(mutex);
    latencies_ms.push_back(ms);
  }
};

// What is measured. A put carries the time of the client's clock.
class Target {
 public:
  virtual ~Target() = default;
  virtual std::string name() const = 0;
  virtual const Process& process() const = 0;
  // A connection for puts, of which any number may run at once.
  virtual std::function<void(int key, std::function<void(bool)>)> Putter() = 0;
  // A watch of everything; ends with the returned object.
  virtual std::unique_ptr<RawStream> Watch(Sink* sink) = 0;
};

class FabricTarget final : public Target {
 public:
  explicit FabricTarget(const std::string& directory)
      : fabric_(FLAGS_fabric, directory) {}

  std::string name() const override { return "fabric"; }
  const Process& process() const override { return fabric_.process(); }

  std::function<void(int, std::function<void(bool)>)> Putter() override {
    stubs_.push_back(
        fabric::v1::Fabric::NewStub(*rpc::Connect(fabric_.address(), {})));
    fabric::v1::Fabric::Stub* const stub = stubs_.back().get();
    return [stub](int key, const std::function<void(bool)>& done) {
      fabric::v1::PutPlanRequest request;
      fabric::v1::Plan& plan = *request.mutable_plan();
      plan.set_app_name(absl::StrCat("app-", key));
      plan.set_digest(std::string(64, 'a'));
      plan.set_max(1);
      // The only field that takes a time; up to an hour.
      const int64_t ns =
          absl::ToInt64Nanoseconds(Now()) % (int64_t{3600} * 1'000'000'000);
      google::protobuf::Duration* time =
          plan.mutable_strategy()->mutable_min_ready();
      time->set_seconds(ns / 1'000'000'000);
      time->set_nanos(static_cast<int32_t>(ns % 1'000'000'000));
      Invoke<fabric::v1::PutPlanResponse>(
          std::move(request),
          [stub](grpc::ClientContext* context,
                 const fabric::v1::PutPlanRequest* in,
                 fabric::v1::PutPlanResponse* out, auto answered) {
            stub->async()->PutPlan(context, in, out, std::move(answered));
          },
          [done](const grpc::Status& status,
                 const fabric::v1::PutPlanResponse&) { done(status.ok()); });
    };
  }

  std::unique_ptr<RawStream> Watch(Sink* sink) override {
    using Response = fabric::v1::WatchPlansResponse;
    return std::make_unique<RawStream>(
        *rpc::Connect(fabric_.address(), {}),
        "/mycelium.fabric.v1.Fabric/WatchPlans",
        fabric::v1::WatchPlansRequest(), /*half_close=*/true,
        [sink, begun = false](grpc::ByteBuffer* bytes) mutable {
          if (begun && !sink->sampling) {
            sink->delivered += CountElements(*bytes, 4);
            return;
          }
          Response message;
          if (!grpc::SerializationTraits<Response>::Deserialize(bytes, &message)
                   .ok()) {
            return;
          }
          if (message.kind() == fabric::v1::WATCH_KIND_SNAPSHOT_END) {
            begun = true;
            ++sink->synced;
          }
          if (message.kind() != fabric::v1::WATCH_KIND_CHANGE) return;
          sink->delivered += message.changes_size();
          const int64_t hours = absl::ToInt64Hours(Now());
          for (const fabric::v1::PlanChange& change : message.changes()) {
            const auto& time = change.put().strategy().min_ready();
            sink->Sample(absl::Hours(hours) + absl::Seconds(time.seconds()) +
                         absl::Nanoseconds(time.nanos()));
          }
        });
  }

 private:
  FabricProcess fabric_;
  // They end here, and never on a thread of gRPC that still answers a call.
  std::vector<std::unique_ptr<fabric::v1::Fabric::Stub>> stubs_;
};

class EtcdTarget final : public Target {
 public:
  EtcdTarget(const std::string& directory, int port)
      : address_(absl::StrCat("127.0.0.1:", port)),
        process_(
            {FLAGS_etcd, absl::StrCat("--data-dir=", directory, "/etcd"),
             absl::StrCat("--listen-client-urls=http://", address_),
             absl::StrCat("--advertise-client-urls=http://", address_),
             absl::StrCat("--listen-peer-urls=http://127.0.0.1:", port + 1),
             absl::StrCat("--initial-advertise-peer-urls="
                          "http://127.0.0.1:",
                          port + 1),
             absl::StrCat("--initial-cluster=default=http://127.0.0.1:",
                          port + 1),
             "--log-level=error"},
            absl::StrCat(directory, "/etcd.log")) {
    // Waits until it serves.
    std::atomic<bool> answered = false;
    Putter()(0, [&answered](bool) { answered = true; });
    while (!answered) absl::SleepFor(absl::Milliseconds(5));
  }

  std::string name() const override { return "etcd"; }
  const Process& process() const override { return process_; }

  std::function<void(int, std::function<void(bool)>)> Putter() override {
    stubs_.push_back(etcdserverpb::KV::NewStub(*rpc::Connect(address_, {})));
    etcdserverpb::KV::Stub* const stub = stubs_.back().get();
    return [stub](int key, const std::function<void(bool)>& done) {
      etcdserverpb::PutRequest request;
      request.set_key(absl::StrCat("app-", key));
      // About as long as a plan.
      request.set_value(absl::StrFormat(
          "%020d%s", absl::ToInt64Nanoseconds(Now()), std::string(120, 'x')));
      Invoke<etcdserverpb::PutResponse>(
          std::move(request),
          [stub](grpc::ClientContext* context,
                 const etcdserverpb::PutRequest* in,
                 etcdserverpb::PutResponse* out, auto answered) {
            stub->async()->Put(context, in, out, std::move(answered));
          },
          [done](const grpc::Status& status, const etcdserverpb::PutResponse&) {
            done(status.ok());
          });
    };
  }

  std::unique_ptr<RawStream> Watch(Sink* sink) override {
    using Response = etcdserverpb::WatchResponse;
    etcdserverpb::WatchRequest request;
    request.mutable_create_request()->set_key("app-");
    request.mutable_create_request()->set_range_end("app.");
    return std::make_unique<RawStream>(
        *rpc::Connect(address_, {}), "/etcdserverpb.Watch/Watch", request,
        /*half_close=*/false,
        [sink, begun = false](grpc::ByteBuffer* bytes) mutable {
          if (begun && !sink->sampling) {
            sink->delivered += CountElements(*bytes, 11);
            return;
          }
          Response message;
          if (!grpc::SerializationTraits<Response>::Deserialize(bytes, &message)
                   .ok()) {
            return;
          }
          if (message.created()) {
            begun = true;
            ++sink->synced;
          }
          sink->delivered += message.events_size();
          for (const etcdserverpb::Event& event : message.events()) {
            int64_t ns = 0;
            if (absl::SimpleAtoi(
                    absl::string_view(event.kv().value()).substr(0, 20), &ns)) {
              sink->Sample(absl::Nanoseconds(ns));
            }
          }
        });
  }

 private:
  const std::string address_;
  Process process_;
  std::vector<std::unique_ptr<etcdserverpb::KV::Stub>> stubs_;
};

// Keeps `depth` puts running for `time`. Returns puts a second.
double PutFor(Target& target, int depth, absl::Duration time) {
  struct State {
    std::atomic<bool> stop = false;
    std::atomic<int> running = 0;
    std::atomic<int64_t> done = 0;
    std::atomic<int64_t> failed = 0;
    std::atomic<int> next_key = 0;
  };
  auto state = std::make_shared<State>();
  // One connection carries about 16 puts at a time.
  const int connections = (depth + 15) / 16;
  std::vector<std::function<void(int, std::function<void(bool)>)>> putters;
  for (int i = 0; i < connections; ++i) putters.push_back(target.Putter());
  std::function<void(int)> start = [&](int writer) {
    putters[static_cast<size_t>(writer % connections)](
        state->next_key.fetch_add(1) % FLAGS_keys,
        [state, writer, &start](bool ok) {
          (ok ? state->done : state->failed).fetch_add(1);
          if (state->stop) {
            state->running.fetch_sub(1);
          } else {
            start(writer);
          }
        });
  };
  const absl::Duration begin = Now();
  for (int i = 0; i < depth; ++i) {
    state->running.fetch_add(1);
    start(i);
  }
  absl::SleepFor(time);
  const int64_t done = state->done;
  const absl::Duration took = Now() - begin;
  state->stop = true;
  while (state->running > 0) absl::SleepFor(absl::Milliseconds(1));
  if (state->failed > 0) {
    absl::FPrintF(stderr, "%d puts failed\n", state->failed.load());
  }
  return static_cast<double>(done) / absl::ToDoubleSeconds(took);
}

void Measure(Target& target, int watcher_count) {
  Sink sink;
  const int64_t memory_before = target.process().MemoryKb();
  std::vector<std::unique_ptr<RawStream>> watchers;
  for (int i = 0; i < watcher_count; ++i) {
    watchers.push_back(target.Watch(&sink));
  }
  while (sink.synced < watcher_count) absl::SleepFor(absl::Milliseconds(5));
  absl::SleepFor(absl::Milliseconds(500));
  const int64_t memory_idle = target.process().MemoryKb();

  // At rest but for a put now and then.
  const auto put = target.Putter();
  const absl::Duration cpu_before_puts = target.process().Cpu();
  sink.delivered = 0;
  sink.sampling = true;
  for (int i = 0; i < FLAGS_latency_puts; ++i) {
    std::atomic<bool> answered = false;
    const absl::Duration start = Now();
    put(i % FLAGS_keys, [&answered](bool) { answered = true; });
    while (!answered) absl::SleepFor(absl::Microseconds(50));
    const absl::Duration period = absl::Seconds(1) / FLAGS_latency_rate;
    absl::SleepFor(std::max(absl::ZeroDuration(), start + period - Now()));
  }
  absl::SleepFor(absl::Milliseconds(200));
  sink.sampling = false;
  const double cpu_alone_us =
      absl::ToDoubleMicroseconds(target.process().Cpu() - cpu_before_puts) /
      std::max<double>(1, static_cast<double>(sink.delivered));

  // As much as goes.
  const absl::Duration cpu_before_load = target.process().Cpu();
  sink.delivered = 0;
  const absl::Duration load_start = Now();
  const double puts = PutFor(target, 64, absl::Seconds(FLAGS_seconds));
  const double seconds = absl::ToDoubleSeconds(Now() - load_start);
  const double events = static_cast<double>(sink.delivered) / seconds;
  const double cpu_load_us =
      absl::ToDoubleMicroseconds(target.process().Cpu() - cpu_before_load) /
      std::max<double>(1, static_cast<double>(sink.delivered));
  absl::SleepFor(absl::Seconds(1));
  const int64_t memory_after = target.process().MemoryKb();

  MutexLock lock(sink.mutex);
  const auto per_watcher = [&](int64_t kb) {
    return static_cast<double>(kb - memory_before) / watcher_count;
  };
  absl::PrintF(
      "%-7s %8d %10.2f %10.2f %12.0f %10.0f %10.1f %10.2f %10.0f %10.0f\n",
      target.name(), watcher_count, Percentile(sink.latencies_ms, 0.5),
      Percentile(sink.latencies_ms, 0.99), events, puts, cpu_alone_us,
      cpu_load_us, per_watcher(memory_idle), per_watcher(memory_after));
  fflush(stdout);
}

// A port that is free now, and the next one too, most likely.
int FreePort() { return 20000 + static_cast<int>(getpid() % 20000); }

std::vector<std::unique_ptr<Target>> Targets(const std::string& directory) {
  std::vector<std::unique_ptr<Target>> targets;
  if (FLAGS_only != "etcd") {
    targets.push_back(std::make_unique<FabricTarget>(directory));
  }
  if (FLAGS_only != "fabric" && access(FLAGS_etcd.c_str(), X_OK) == 0) {
    targets.push_back(std::make_unique<EtcdTarget>(directory, FreePort()));
  }
  return targets;
}

// Durable puts a second, in rounds of both targets in turn, so that a machine
// that is slow for a while is slow for both; and the server's processor time a
// put.
bool MeasureWriters(int writers) {
  const absl::StatusOr<TempDirectory> directory =
      TempDirectory::Create("fabric-bench-");
  if (!directory.ok()) return false;
  const auto targets = Targets(directory->path());
  std::vector<std::vector<double>> rates(targets.size());
  std::vector<std::vector<double>> costs_us(targets.size());
  for (int round = 0; round < FLAGS_rounds; ++round) {
    for (size_t i = 0; i < targets.size(); ++i) {
      const absl::Duration cpu_before = targets[i]->process().Cpu();
      const double rate =
          PutFor(*targets[i], writers, absl::Seconds(FLAGS_seconds));
      rates[i].push_back(rate);
      costs_us[i].push_back(
          absl::ToDoubleMicroseconds(targets[i]->process().Cpu() - cpu_before) /
          std::max(1.0, rate * FLAGS_seconds));
    }
  }
  for (size_t i = 0; i < targets.size(); ++i) {
    absl::PrintF("%-7s %8d %12.0f %9.0f %9.0f %9.1f\n", targets[i]->name(),
                 writers, Percentile(rates[i], 0.5),
                 *std::min_element(rates[i].begin(), rates[i].end()),
                 *std::max_element(rates[i].begin(), rates[i].end()),
                 Percentile(costs_us[i], 0.5));
  }
  fflush(stdout);
  return true;
}

int Run() {
  absl::PrintF("%-7s %8s %10s %10s %12s %10s %10s %10s %10s %10s\n", "", "",
               "p50 ms", "p99 ms", "events/s", "puts/s", "us/event", "us/event",
               "kB/watch", "kB/watch");
  absl::PrintF("%-7s %8s %10s %10s %12s %10s %10s %10s %10s %10s\n", "",
               "watchers", "", "", "saturated", "meanwhile", "alone",
               "saturated", "idle", "after");
  fflush(stdout);
  for (absl::string_view text : absl::StrSplit(FLAGS_watchers, ',')) {
    int count = 0;
    if (!absl::SimpleAtoi(text, &count) || count < 1) continue;
    const absl::StatusOr<TempDirectory> directory =
        TempDirectory::Create("fabric-bench-");
    if (!directory.ok()) return 1;
    for (const auto& target : Targets(directory->path())) {
      Measure(*target, count);
    }
  }
  absl::PrintF("\n%-7s %8s %12s %9s %9s %9s\n", "", "writers", "durable/s",
               "min", "max", "us/put");
  for (const int writers : {1, 64}) {
    if (!MeasureWriters(writers)) return 1;
  }
  return 0;
}

}  // namespace
}  // namespace mycelium::bench

int main(int argc, char** argv) {
  gflags::ParseCommandLineFlags(&argc, &argv, true);
  if (FLAGS_fabric.empty()) {
    FLAGS_fabric = mycelium::bench::FabricBinary(argv[0]);
  }
  return mycelium::bench::Run();
}
