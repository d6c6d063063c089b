#ifndef SERVICES_EDGE_EDGE_REPORTER_H_
#define SERVICES_EDGE_EDGE_REPORTER_H_

#include <functional>
#include <memory>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/time/time.h"
#include "lib/base/mutex.h"
#include "mycelium/fabric/v1/fabric.pb.h"

namespace grpc {
class ChannelInterface;
class ClientContext;
}  // namespace grpc

namespace mycelium::edge {

// Registers this edge with a fabric and reports what it has applied, each
// second and whenever that changes. Reconnects by itself. Thread-safe.
class EdgeReporter {
 public:
  // What to report now. `edge` need not be set.
  using Source = std::function<fabric::v1::ReportEdgeRequest()>;

  EdgeReporter(const std::shared_ptr<grpc::ChannelInterface>& channel,
               fabric::v1::EdgeInfo edge, Source source);

  // Ends the registration, orderly if the fabric answers within a second.
  ~EdgeReporter();

  // Something may have changed: look now.
  void Poke();

 private:
  void Run();
  // One stream, until it breaks or the end. Whether it was ever open.
  bool Report();
  // Waits until there is something to send; false at the end.
  bool WaitForNews(const fabric::v1::ReportEdgeRequest& sent,
                   fabric::v1::ReportEdgeRequest* next);

  const std::shared_ptr<grpc::ChannelInterface> channel_;
  const fabric::v1::EdgeInfo edge_;
  const Source source_;

  Mutex mutex_;
  CondVar changed_;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  bool poked_ ABSL_GUARDED_BY(mutex_) = false;
  bool ended_ ABSL_GUARDED_BY(mutex_) = false;
  grpc::ClientContext* context_ ABSL_GUARDED_BY(mutex_) = nullptr;

  std::thread thread_;
};

}  // namespace mycelium::edge

#endif  // SERVICES_EDGE_EDGE_REPORTER_H_
