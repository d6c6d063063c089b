#include "services/repo/repo_service.h"

#include <algorithm>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "glog/logging.h"
#include "lib/base/error.h"
#include "lib/base/status_macros.h"
#include "lib/rpc/status.h"
#include "services/repo/errors.h"
#include "services/repo/wire.h"

namespace mycelium::repo {
namespace {

// The contract's limit.
constexpr int kMaxChunkBytes = 1 << 20;

// What a client may send ahead: bounds memory, and with the round-trip time the
// speed of one upload (at 20 ms, 100 MB/s).
constexpr int kReceiveWindowBytes = 2 << 20;

// What Get sends at a time: fits the second-level cache, so that the bytes are
// still there when the socket takes them.
constexpr size_t kGetChunkBytes = size_t{512} << 10;

// Buffers that are kept for the next download when one has ended.
constexpr size_t kKeptBuffers = 8;

constexpr int kReaderThreads = 8;
constexpr int kDeleterThreads = 2;
constexpr int kMaxWaitingDeletes = 64;

std::vector<absl::string_view> PiecesOf(
    const std::vector<grpc::Slice>& slices) {
  std::vector<absl::string_view> pieces;
  pieces.reserve(slices.size());
  for (const grpc::Slice& slice : slices) {
    pieces.emplace_back(reinterpret_cast<const char*>(slice.begin()),
                        slice.size());
  }
  return pieces;
}

// Reads a message through protobuf, copying it.
template <typename Message>
bool Parse(const std::vector<absl::string_view>& pieces, Message& message) {
  std::string bytes;
  for (const absl::string_view piece : pieces) absl::StrAppend(&bytes, piece);
  return message.ParseFromString(bytes);
}

template <typename Message>
bool Parse(const grpc::ByteBuffer& buffer, Message& message) {
  std::vector<grpc::Slice> slices;
  return buffer.Dump(&slices).ok() && Parse(PiecesOf(slices), message);
}

grpc::ByteBuffer Serialize(const google::protobuf::MessageLite& message) {
  const grpc::Slice slice(message.SerializeAsString());
  return {&slice, 1};
}

absl::Status HeaderInvalid(absl::string_view field,
                           absl::string_view description) {
  FieldViolations violations;
  violations.Add(field, description);
  return violations.ToStatus(kErrorDomain, "HEADER_INVALID");
}

absl::Status RequestInvalid(absl::string_view field,
                            absl::string_view description) {
  FieldViolations violations;
  violations.Add(field, description);
  return violations.ToStatus(kErrorDomain, "REQUEST_INVALID");
}

absl::Status OffsetInvalid(int64_t offset, int64_t size_bytes) {
  return MakeError(absl::StatusCode::kOutOfRange, kErrorDomain,
                   "OFFSET_INVALID",
                   absl::StrCat("offset ", offset, " is not within the ",
                                size_bytes, " bytes of the spore"),
                   {{"offset", absl::StrCat(offset)},
                    {"size_bytes", absl::StrCat(size_bytes)}});
}

absl::Status TooManyDownloads(int max_downloads) {
  return WithRetryAfter(
      MakeError(absl::StatusCode::kResourceExhausted, kErrorDomain,
                "TOO_MANY_DOWNLOADS",
                absl::StrCat(max_downloads,
                             " downloads are under way, the most that this "
                             "repo serves at a time; try again"),
                {{"max_downloads", absl::StrCat(max_downloads)}}),
      absl::Seconds(1));
}

}  // namespace

// Feeds an Upload. Deleted by OnDone().
class RepoService::PutReactor final
    : public grpc::ServerReadReactor<grpc::ByteBuffer>,
      public UploadListener {
 public:
  PutReactor(RepoService* service, grpc::CallbackServerContext* context,
             grpc::ByteBuffer* response)
      : service_(*service), context_(*context), response_(*response) {
    // Later, the upload itself minds the time.
    service_.stalls_.Add(this, [context] { context->TryCancel(); });
    ReadNext();
  }

  void OnReadDone(bool ok) override {
    if (upload_ != nullptr) {
      ContinueUpload(ok);
    } else {
      service_.stalls_.Remove(this);
      BeginUpload(ok);
    }
  }

  void OnRoom() override { ReadNext(); }

  void OnEnd(absl::StatusOr<PutResult> result) override {
    if (result.ok()) {
      v1::PutResponse response;
      *response.mutable_spore() = std::move(result->spore);
      response.set_existed(result->existed);
      response_ = Serialize(response);
    }
    {
      MutexLock lock(mutex_);
      ended_ = true;
    }
    // Nothing may be touched after this: OnDone() can come at any moment.
    Finish(rpc::ToGrpcStatus(result.status()));
  }

  void OnDone() override {
    service_.stalls_.Remove(this);
    delete this;
  }

 private:
  void ReadNext() {
    MutexLock lock(mutex_);
    // Under the lock: no read may start once Finish() was called.
    if (!ended_) StartRead(&message_);
  }

  void BeginUpload(bool ok) {
    v1::PutRequest request;
    if (!ok || !Parse(message_, request) || !request.has_header()) {
      OnEnd(HeaderInvalid("header", "must be the first message"));
      return;
    }
    absl::StatusOr<SporeStore::BegunPut> begun = service_.store_.BeginPut(
        request.header().digest(), request.header().size_bytes(), this);
    if (!begun.ok()) {
      OnEnd(begun.status());
    } else if (begun->existing.has_value()) {
      OnEnd(*std::move(begun->existing));
    } else {
      upload_ = std::move(begun->upload);
      ReadNext();
    }
  }

  void ContinueUpload(bool ok) {
    if (!ok) {
      if (context_.IsCancelled()) {
        upload_->Cancel(absl::CancelledError("the client has gone"));
      } else {
        upload_->Finish();
      }
      return;
    }
    auto slices = std::make_shared<std::vector<grpc::Slice>>();
    if (!message_.Dump(slices.get()).ok()) {
      upload_->Cancel(HeaderInvalid("chunk", "cannot be decoded"));
      return;
    }
    Chunk chunk;
    if (auto pieces = ParseChunk(PiecesOf(*slices))) {
      chunk = {.pieces = *std::move(pieces), .owner = std::move(slices)};
    } else {
      auto request = std::make_shared<v1::PutRequest>();
      if (!Parse(PiecesOf(*slices), *request) || !request->has_chunk()) {
        upload_->Cancel(
            HeaderInvalid("chunk", "must be in every message but the first"));
        return;
      }
      chunk = {.pieces = {request->chunk()}, .owner = request};
    }
    if (const size_t size = chunk.SizeBytes(); size > size_t{kMaxChunkBytes}) {
      upload_->Cancel(HeaderInvalid(
          "chunk", absl::StrCat("has ", size, " bytes, more than the ",
                                kMaxChunkBytes, " allowed")));
      return;
    }
    message_.Clear();
    if (upload_->Append(std::move(chunk))) ReadNext();
  }

  RepoService& service_;
  grpc::CallbackServerContext& context_;
  grpc::ByteBuffer& response_;
  grpc::ByteBuffer message_;
  std::shared_ptr<Upload> upload_;

  Mutex mutex_;
  bool ended_ ABSL_GUARDED_BY(mutex_) = false;
};

// Sends a spore, reading one chunk while the one before is on its way. Deleted
// by OnDone().
class RepoService::GetReactor final
    : public grpc::ServerWriteReactor<grpc::ByteBuffer> {
 public:
  GetReactor(RepoService* service, grpc::CallbackServerContext* context,
             const grpc::ByteBuffer& request)
      : service_(*service) {
    is_counted_ =
        service_.downloads_.fetch_add(1) < service_.options_.max_downloads;
    if (const absl::Status status = Begin(request); !status.ok()) {
      Finish(rpc::ToGrpcStatus(status));
      return;
    }
    service_.stalls_.Add(this, [context] { context->TryCancel(); });
    ReadNext();
  }

  void OnWriteDone(bool ok) override {
    service_.stalls_.Progress(this);
    {
      MutexLock lock(mutex_);
      is_writing_ = false;
      if (!ok) status_ = absl::CancelledError("the client has gone");
    }
    Continue();
  }

  void OnDone() override {
    service_.stalls_.Remove(this);
    service_.downloads_.fetch_sub(1);
    delete this;
  }

 private:
  absl::Status Begin(const grpc::ByteBuffer& buffer) {
    if (!is_counted_) return TooManyDownloads(service_.options_.max_downloads);
    v1::GetRequest request;
    if (!Parse(buffer, request)) {
      return RequestInvalid("request", "is no GetRequest");
    }
    MYC_RETURN_IF_ERROR(CheckDigest(request.digest()));
    if (request.limit_bytes() < 0) {
      return RequestInvalid(
          "limit_bytes",
          absl::StrCat(request.limit_bytes(), " must not be negative"));
    }
    MYC_ASSIGN_OR_RETURN(SporeReader reader,
                         service_.store_.Read(request.digest()));
    const int64_t size_bytes = reader.size_bytes();
    if (request.offset() < 0 || request.offset() > size_bytes) {
      return OffsetInvalid(request.offset(), size_bytes);
    }
    reader_.emplace(std::move(reader));
    next_ = request.offset();
    end_ = request.limit_bytes() == 0
               ? size_bytes
               : next_ + std::min(request.limit_bytes(), size_bytes - next_);
    return absl::OkStatus();
  }

  // Has the next chunk read by another thread. `is_reading_` must be set, which
  // keeps the end from coming before the chunk.
  void ReadNext() {
    const bool scheduled = service_.readers_.Schedule([this] {
      grpc::ByteBuffer chunk;
      absl::Status status = ReadChunk(chunk);
      {
        MutexLock lock(mutex_);
        is_reading_ = false;
        has_ready_ = status.ok();
        ready_.Swap(&chunk);
        if (!status.ok()) status_ = std::move(status);
      }
      Continue();
    });
    // Each download has one read waiting at most, and the pool room for all.
    CHECK(scheduled);
  }

  absl::Status ReadChunk(grpc::ByteBuffer& chunk) {
    struct Loan {
      std::shared_ptr<BufferPool> pool;
      std::unique_ptr<char[]> buffer;
    };
    const size_t size = static_cast<size_t>(std::min(
        end_ - next_, static_cast<int64_t>(service_.buffers_->buffer_bytes())));
    auto loan = std::make_unique<Loan>(
        Loan{.pool = service_.buffers_, .buffer = service_.buffers_->Get()});
    MYC_RETURN_IF_ERROR(reader_->ReadAt(next_, loan->buffer.get(), size));
    char* const bytes = loan->buffer.get();
    const grpc::Slice slices[] = {
        grpc::Slice(GetResponsePrefix(
            next_, is_first_ ? reader_->size_bytes() : 0, size)),
        grpc::Slice(
            bytes, size,
            [](void* user_data) {
              const std::unique_ptr<Loan> returned(
                  static_cast<Loan*>(user_data));
              returned->pool->Return(std::move(returned->buffer));
            },
            loan.release()),
    };
    chunk = grpc::ByteBuffer(slices, size == 0 ? 1 : 2);
    next_ += static_cast<int64_t>(size);
    is_first_ = false;
    return absl::OkStatus();
  }

  // Starts what can be started now: a write and a read, or the end.
  void Continue() {
    bool read = false;
    bool end = false;
    absl::Status status;
    {
      MutexLock lock(mutex_);
      if (status_.ok() && has_ready_ && !is_writing_) {
        writing_.Swap(&ready_);
        ready_.Clear();
        has_ready_ = false;
        is_writing_ = true;
        read = next_ < end_;
        is_reading_ = read;
        StartWrite(&writing_, grpc::WriteOptions().set_no_compression());
      }
      end = !is_reading_ && !is_writing_ && !is_ended_;
      if (end) is_ended_ = true;
      status = status_;
    }
    if (read) ReadNext();
    // Nothing may be touched after this: OnDone() can come at any moment.
    if (end) Finish(rpc::ToGrpcStatus(status));
  }

  RepoService& service_;
  bool is_counted_ = false;
  std::optional<SporeReader> reader_;
  int64_t end_ = 0;

  // Of the thread that reads; between reads, of who holds the lock.
  int64_t next_ = 0;
  bool is_first_ = true;

  Mutex mutex_;
  // A read is under way or about to be scheduled.
  bool is_reading_ ABSL_GUARDED_BY(mutex_) = true;
  bool is_writing_ ABSL_GUARDED_BY(mutex_) = false;
  bool has_ready_ ABSL_GUARDED_BY(mutex_) = false;
  bool is_ended_ ABSL_GUARDED_BY(mutex_) = false;
  grpc::ByteBuffer ready_ ABSL_GUARDED_BY(mutex_);
  grpc::ByteBuffer writing_ ABSL_GUARDED_BY(mutex_);
  absl::Status status_ ABSL_GUARDED_BY(mutex_);
};

std::vector<std::pair<std::string, int>> RepoService::TransportSettings() {
  return {
      // The probe would let the window grow to many times this.
      {GRPC_ARG_HTTP2_BDP_PROBE, 0},
      {GRPC_ARG_HTTP2_STREAM_LOOKAHEAD_BYTES, kReceiveWindowBytes},
      {GRPC_ARG_HTTP2_MAX_FRAME_SIZE, kMaxChunkBytes},
  };
}

RepoService::RepoService(SporeStore* store, Collector* collector,
                         const Options& options)
    : store_(*store),
      collector_(*collector),
      options_(options),
      buffers_(std::make_shared<BufferPool>(kGetChunkBytes, kKeptBuffers)),
      stalls_(options.stall_timeout),
      readers_("repo-read", kReaderThreads, options.max_downloads),
      deleters_("repo-delete", kDeleterThreads, kMaxWaitingDeletes) {}

grpc::ServerReadReactor<grpc::ByteBuffer>* RepoService::Put(
    grpc::CallbackServerContext* context, grpc::ByteBuffer* response) {
  return new PutReactor(this, context, response);
}

grpc::ServerWriteReactor<grpc::ByteBuffer>* RepoService::Get(
    grpc::CallbackServerContext* context, const grpc::ByteBuffer* request) {
  return new GetReactor(this, context, *request);
}

grpc::ServerUnaryReactor* RepoService::Stat(
    grpc::CallbackServerContext* context, const v1::StatRequest* request,
    v1::StatResponse* response) {
  absl::StatusOr<spore::v1::SporeInfo> info = store_.Stat(request->digest());
  if (info.ok()) *response->mutable_spore() = *info;
  return Answer(context, info.status());
}

grpc::ServerUnaryReactor* RepoService::List(
    grpc::CallbackServerContext* context, const v1::ListRequest* request,
    v1::ListResponse* response) {
  absl::StatusOr<SporeStore::Page> page =
      store_.List(request->page_size(), request->page_token(), request->name());
  if (page.ok()) {
    for (spore::v1::SporeInfo& info : page->spores) {
      *response->add_spores() = std::move(info);
    }
    response->set_next_page_token(page->next_token);
  }
  return Answer(context, page.status());
}

grpc::ServerUnaryReactor* RepoService::Delete(
    grpc::CallbackServerContext* context, const v1::DeleteRequest* request,
    v1::DeleteResponse* response) {
  return RunBlocking(context, [this, request, response]() -> absl::Status {
    MYC_ASSIGN_OR_RETURN(
        const int64_t freed,
        collector_.Delete(request->digest(), request->force()
                                                 ? Collector::InUse::kForce
                                                 : Collector::InUse::kRefuse));
    response->set_freed_bytes(freed);
    return absl::OkStatus();
  });
}

grpc::ServerUnaryReactor* RepoService::Gc(grpc::CallbackServerContext* context,
                                          const v1::GcRequest* request,
                                          v1::GcResponse* response) {
  return RunBlocking(
      context, [this, context, request, response]() -> absl::Status {
        Collector::GcRequest gc;
        gc.keep_digests = {request->keep_digests().begin(),
                           request->keep_digests().end()};
        if (request->has_min_age()) {
          gc.min_age = absl::Seconds(request->min_age().seconds()) +
                       absl::Nanoseconds(request->min_age().nanos());
        }
        gc.dry_run = request->dry_run();
        gc.cancelled = [context] { return context->IsCancelled(); };
        MYC_ASSIGN_OR_RETURN(const Collector::GcResult result,
                             collector_.Gc(gc));
        response->mutable_deleted_digests()->Assign(
            result.deleted_digests.begin(), result.deleted_digests.end());
        response->set_freed_bytes(result.freed_bytes);
        response->set_kept_count(result.kept_count);
        return absl::OkStatus();
      });
}

grpc::ServerUnaryReactor* RepoService::Answer(
    grpc::CallbackServerContext* context, const absl::Status& status) {
  grpc::ServerUnaryReactor* const reactor = context->DefaultReactor();
  reactor->Finish(rpc::ToGrpcStatus(status));
  return reactor;
}

grpc::ServerUnaryReactor* RepoService::RunBlocking(
    grpc::CallbackServerContext* context, std::function<absl::Status()> work) {
  grpc::ServerUnaryReactor* const reactor = context->DefaultReactor();
  const bool scheduled = deleters_.Schedule([reactor, work = std::move(work)] {
    reactor->Finish(rpc::ToGrpcStatus(work()));
  });
  if (!scheduled) {
    reactor->Finish(rpc::ToGrpcStatus(WithRetryAfter(
        MakeError(absl::StatusCode::kResourceExhausted, kErrorDomain,
                  "OVERLOADED", "too many deletions are waiting; try again"),
        absl::Seconds(1))));
  }
  return reactor;
}

}  // namespace mycelium::repo
