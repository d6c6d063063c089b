#include "services/edge/certificate_store.h"

#include <sys/stat.h>

#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "glog/logging.h"
#include "lib/base/file.h"
#include "lib/base/status_macros.h"

namespace mycelium::edge {
namespace {

// As long as a ticket is good for: the key before it opens those that are.
constexpr absl::Duration kTicketKeyLife = absl::Hours(2);
// A directory that never rests is loaded all the same.
constexpr int kMaxPatience = 10;

void Describe(const std::string& path, std::string* out) {
  struct stat file {};
  if (stat(path.c_str(), &file) != 0) {
    absl::StrAppend(out, path, " ?\n");
    return;
  }
  absl::StrAppend(out, path, " ", file.st_ino, " ", file.st_size, " ",
                  file.st_mtim.tv_sec, ".", file.st_mtim.tv_nsec, " ",
                  file.st_ctim.tv_sec, ".", file.st_ctim.tv_nsec, "\n");
}

}  // namespace

absl::StatusOr<std::unique_ptr<CertificateStore>> CertificateStore::Create(
    TlsOptions options, absl::Duration interval) {
  std::unique_ptr<CertificateStore> store(
      new CertificateStore(std::move(options), interval));
  // Before the first load: what changes after this line is a change.
  std::string fingerprint = store->Fingerprint();
  MYC_RETURN_IF_ERROR(store->Load());
  store->thread_ = std::thread(
      [store = store.get(), fingerprint = std::move(fingerprint)]() mutable {
        store->Watch(std::move(fingerprint));
      });
  return store;
}

CertificateStore::CertificateStore(TlsOptions options, absl::Duration interval)
    : options_(std::move(options)),
      interval_(interval),
      ticket_keys_(std::make_shared<TicketKeys>()) {}

CertificateStore::~CertificateStore() {
  {
    MutexLock lock(mutex_);
    stopping_ = true;
    changed_.NotifyAll();
  }
  if (thread_.joinable()) thread_.join();
}

std::shared_ptr<const TlsContext> CertificateStore::Current() const {
  MutexLock lock(mutex_);
  return current_;
}

absl::Status CertificateStore::Reload() {
  absl::Status status = Load();
  if (status.ok()) {
    reloads_.fetch_add(1, std::memory_order_relaxed);
    LOG(INFO) << "loaded the certificates of " << options_.certificates;
  } else {
    failed_reloads_.fetch_add(1, std::memory_order_relaxed);
    LOG(ERROR) << "cannot load the certificates, the old ones stay: "
               << status.message();
  }
  return status;
}

absl::Status CertificateStore::Load() {
  MutexLock loading(load_mutex_);
  MYC_ASSIGN_OR_RETURN(std::shared_ptr<const TlsContext> context,
                       TlsContext::Load(options_, ticket_keys_));
  for (const std::string& warning : context->warnings())
    LOG(WARNING) << warning;
  MutexLock lock(mutex_);
  current_ = std::move(context);
  version_.fetch_add(1, std::memory_order_release);
  return absl::OkStatus();
}

std::string CertificateStore::Fingerprint() const {
  std::string fingerprint;
  const absl::StatusOr<std::vector<std::string>> files =
      ListDirectory(options_.certificates);
  if (!files.ok()) return std::string(files.status().message());
  for (const std::string& file : *files) {
    if (absl::EndsWith(file, ".crt") || absl::EndsWith(file, ".key"))
      Describe(JoinPath(options_.certificates, file), &fingerprint);
  }
  if (!options_.client_ca.empty()) Describe(options_.client_ca, &fingerprint);
  return fingerprint;
}

void CertificateStore::Watch(std::string loaded) {
  std::string seen = loaded;
  int patience = 0;
  absl::Time rotate = absl::Now() + kTicketKeyLife;
  for (;;) {
    {
      MutexLock lock(mutex_);
      const absl::Time wake = absl::Now() + interval_;
      while (!stopping_ && absl::Now() < wake)
        changed_.WaitFor(mutex_, wake - absl::Now());
      if (stopping_) return;
    }
    if (absl::Now() >= rotate) {
      ticket_keys_->Rotate();
      rotate = absl::Now() + kTicketKeyLife;
    }
    std::string now = Fingerprint();
    const bool resting = now == seen;
    seen = std::move(now);
    if (seen == loaded) {
      patience = 0;
      continue;
    }
    if (!resting && ++patience < kMaxPatience) continue;
    patience = 0;
    loaded = seen;
    // It has been logged and counted; there is no one else to tell.
    Reload().IgnoreError();
  }
}

}  // namespace mycelium::edge
