#ifndef SERVICES_EDGE_CERTIFICATE_STORE_H_
#define SERVICES_EDGE_CERTIFICATE_STORE_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "lib/base/mutex.h"
#include "services/edge/tls_context.h"

namespace mycelium::edge {

// The certificates that new connections get, kept up to date from their
// directory by a thread of its own. Thread-safe.
class CertificateStore {
 public:
  // Loads the certificates, and looks at the directory every `interval`. A
  // change is loaded once the directory has stayed the same for one interval,
  // so that a certificate is not read before its key has come.
  static absl::StatusOr<std::unique_ptr<CertificateStore>> Create(
      TlsOptions options, absl::Duration interval = absl::Milliseconds(500));
  ~CertificateStore();

  CertificateStore(const CertificateStore&) = delete;
  CertificateStore& operator=(const CertificateStore&) = delete;

  // Counts up with each context. Cheap enough for every connection.
  uint64_t version() const { return version_.load(std::memory_order_acquire); }
  std::shared_ptr<const TlsContext> Current() const;

  // Loads the certificates now. If one of them cannot be used, those that were
  // loaded before stay; the error, which is also logged and counted, names the
  // file and says why.
  absl::Status Reload();

  int64_t reloads() const { return reloads_.load(std::memory_order_relaxed); }
  int64_t failed_reloads() const {
    return failed_reloads_.load(std::memory_order_relaxed);
  }

 private:
  CertificateStore(TlsOptions options, absl::Duration interval);

  absl::Status Load();
  void Watch(std::string loaded);
  // Equal as long as no file has changed.
  std::string Fingerprint() const;

  const TlsOptions options_;
  const absl::Duration interval_;
  const std::shared_ptr<TicketKeys> ticket_keys_;
  std::atomic<uint64_t> version_{0};
  std::atomic<int64_t> reloads_{0};
  std::atomic<int64_t> failed_reloads_{0};

  Mutex load_mutex_;  // Held while loading, so that the last one wins.

  mutable Mutex mutex_;
  CondVar changed_;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::shared_ptr<const TlsContext> current_ ABSL_GUARDED_BY(mutex_);

  std::thread thread_;
};

}  // namespace mycelium::edge

#endif  // SERVICES_EDGE_CERTIFICATE_STORE_H_
