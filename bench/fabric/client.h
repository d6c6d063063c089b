// What the fabric's benches have in common: a process and what it costs, and
// calls of which nothing is left once they are answered.

#ifndef BENCH_FABRIC_CLIENT_H_
#define BENCH_FABRIC_CLIENT_H_

#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/time/time.h"
#include "google/protobuf/message_lite.h"
#include "grpcpp/generic/generic_stub.h"
#include "grpcpp/grpcpp.h"
#include "lib/base/mutex.h"
#include "lib/rpc/channel.h"

namespace mycelium::bench {

// The time of the client's clock, which never goes back.
absl::Duration Now();

// A program and what it costs. It is killed with the object.
class Process {
 public:
  Process(const std::vector<std::string>& words, const std::string& log);
  ~Process();
  Process(const Process&) = delete;
  Process& operator=(const Process&) = delete;

  // Processor time that it has used.
  absl::Duration Cpu() const;
  // Resident memory in kB.
  int64_t MemoryKb() const;

 private:
  pid_t pid_ = -1;
};

// A fabric that keeps its store below a directory.
class FabricProcess {
 public:
  // Returns when it listens; `address` is empty if it does not.
  FabricProcess(const std::string& binary, const std::string& directory);

  const Process& process() const { return process_; }
  const std::string& address() const { return address_; }

 private:
  Process process_;
  std::string address_;
};

// The fabric's binary, beside that of the bench `argv0`.
std::string FabricBinary(const std::string& argv0);

// Lets this process, and those that it starts, have as many connections as the
// system allows.
void RaiseFileLimit();

// How many elements the repeated field `field` of a message has, without
// decoding it, so that a thousand watchers on one machine do not measure the
// client.
int64_t CountElements(const grpc::ByteBuffer& bytes, int field);

// The value below which `share` of `values` lie; 0 if there are none.
double Percentile(std::vector<double> values, double share);

// One unary call, which lives until it is answered. `start` is given what the
// callback method of a stub takes. `done` runs on a thread of gRPC when nothing
// is left of the call: whoever counts its calls may let go of the stub when the
// last `done` begins.
template <typename Response, typename Request, typename Start, typename Done>
void Invoke(Request request, const Start& start, Done done) {
  struct Call {
    grpc::ClientContext context;
    Request request;
    Response response;
  };
  auto call = std::make_shared<Call>();
  call->request = std::move(request);
  call->context.set_wait_for_ready(true);
  rpc::SetDeadline(call->context, absl::Seconds(30));
  Call* const raw = call.get();
  start(&raw->context, &raw->request, &raw->response,
        [call = std::move(call),
         done = std::move(done)](const grpc::Status& status) mutable {
          const Response response = std::move(call->response);
          // The context holds the channel. If it went after `done`, it could be
          // the last to do so, and a channel that ends on a thread of its own
          // waits for that thread.
          call.reset();
          done(status, response);
        });
}

// A stream on a connection of its own that sends one request and then only
// reads, until it is destroyed.
class RawStream final
    : public grpc::ClientBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer> {
 public:
  // `take` is given one message after the other, on threads of gRPC.
  RawStream(const std::shared_ptr<grpc::Channel>& channel,
            const std::string& method,
            const google::protobuf::MessageLite& request, bool half_close,
            std::function<void(grpc::ByteBuffer*)> take);
  ~RawStream() override;

  void OnReadDone(bool ok) override;
  void OnDone(const grpc::Status& status) override;

 private:
  const std::function<void(grpc::ByteBuffer*)> take_;
  grpc::GenericStub stub_;
  grpc::ClientContext context_;
  grpc::ByteBuffer request_;
  grpc::ByteBuffer response_;
  Mutex mutex_;
  CondVar changed_;
  bool done_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace mycelium::bench

#endif  // BENCH_FABRIC_CLIENT_H_
