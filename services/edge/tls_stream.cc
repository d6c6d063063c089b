#include "services/edge/tls_stream.h"

#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/sslerr.h>
#include <sys/socket.h>
#include <sys/types.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

namespace mycelium::edge {
namespace {

// Reads of the socket in one go: messages of TLS itself can follow each other
// without end, and others want their turn.
constexpr int kReadsPerTurn = 8;
// New keys that a peer may ask for without having used the old ones. Each costs
// it a few bytes, and us some microseconds.
constexpr int kMaxKeyUpdates = 32;

TlsFailure FailureOf(int reason) {
  switch (reason) {
    case SSL_R_HTTP_REQUEST:
    case SSL_R_HTTPS_PROXY_REQUEST:
      return TlsFailure::kPlainHttp;
    case SSL_R_CALLBACK_FAILED:
      return TlsFailure::kUnknownName;
    case SSL_R_NO_APPLICATION_PROTOCOL:
      return TlsFailure::kProtocol;
    case SSL_R_UNSUPPORTED_PROTOCOL:
    case SSL_R_VERSION_TOO_LOW:
      return TlsFailure::kVersion;
    case SSL_R_NO_SHARED_CIPHER:
    case SSL_R_NO_SUITABLE_SIGNATURE_ALGORITHM:
    case SSL_R_NO_SUITABLE_KEY_SHARE:
      return TlsFailure::kCipher;
    case SSL_R_PEER_DID_NOT_RETURN_A_CERTIFICATE:
    case SSL_R_CERTIFICATE_VERIFY_FAILED:
      return TlsFailure::kClientCertificate;
    default:
      return reason >= SSL_AD_REASON_OFFSET ? TlsFailure::kClientAlert
                                            : TlsFailure::kBadMessage;
  }
}

}  // namespace

const BIO_METHOD* TlsStream::Method() {
  static const BIO_METHOD* const method = [] {
    BIO_METHOD* const made = BIO_meth_new(
        BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "edge connection");
    BIO_meth_set_read(made, &BioRead);
    BIO_meth_set_write(made, &BioWrite);
    BIO_meth_set_ctrl(made, &BioControl);
    return made;
  }();
  return method;
}

int TlsStream::BioRead(BIO* bio, char* data, int size) {
  BIO_clear_retry_flags(bio);
  bool retry = false;
  const int got = static_cast<TlsStream*>(BIO_get_data(bio))
                      ->ReadSocket(data, size, &retry);
  if (retry) BIO_set_retry_read(bio);
  return got;
}

void TlsStream::OnMessage(int sent, int /*version*/, int type, const void* data,
                          size_t size, SSL* /*ssl*/, void* self) {
  if (sent == 0 && type == SSL3_RT_HANDSHAKE && size > 0 &&
      *static_cast<const unsigned char*>(data) == SSL3_MT_KEY_UPDATE) {
    ++static_cast<TlsStream*>(self)->key_updates_;
  }
}

int TlsStream::ReadSocket(char* data, int size, bool* retry) {
  if (key_updates_ > kMaxKeyUpdates) {
    broken_ = true;
    return -1;
  }
  if (drained_ || reads_left_ == 0) {
    *retry = true;
    return -1;
  }
  for (;;) {
    const ssize_t got = recv(fd_, data, static_cast<size_t>(size), 0);
    if (got > 0) {
      --reads_left_;
      // A short read has emptied the socket; only the end may still be there.
      if (got < size && !peer_closed_) drained_ = true;
      return static_cast<int>(got);
    }
    if (got == 0) {
      ended_ = true;
      return 0;
    }
    if (errno == EINTR) continue;
    if (errno == EAGAIN || errno == EWOULDBLOCK) {
      drained_ = true;
      *retry = true;
    } else {
      broken_ = true;
    }
    return -1;
  }
}

int TlsStream::BioWrite(BIO* bio, const char* data, int size) {
  BIO_clear_retry_flags(bio);
  auto* const self = static_cast<TlsStream*>(BIO_get_data(bio));
  const auto bytes = static_cast<size_t>(size);
  self->out_.Reserve(self->blocks_, bytes);
  // A peer that makes us answer but does not read the answers.
  if (self->out_.room_size() < bytes) return -1;
  std::memcpy(self->out_.room(), data, bytes);
  self->out_.Added(bytes);
  return size;
}

// NOLINTNEXTLINE(google-runtime-int): the type is OpenSSL's.
long TlsStream::BioControl(BIO* /*bio*/, int command,
                           long /*number*/,  // NOLINT(google-runtime-int)
                           void* /*pointer*/) {
  return command == BIO_CTRL_FLUSH ? 1 : 0;
}

bool TlsStream::Start(std::shared_ptr<const TlsContext> context, int fd,
                      BlockPool* blocks) {
  context_ = std::move(context);
  blocks_ = blocks;
  fd_ = fd;
  sealed_ = 0;
  key_updates_ = 0;
  failure_ = TlsFailure::kOther;
  done_ = failed_ = more_ = ended_ = broken_ = discarding_ = end_when_sent_ =
      cut_short_ = false;
  ssl_.reset(context_->NewConnection());
  BIO* const bio = ssl_ == nullptr ? nullptr : BIO_new(Method());
  if (bio == nullptr) {
    Stop();
    return false;
  }
  BIO_set_data(bio, this);
  BIO_set_init(bio, 1);
  SSL_set_bio(ssl_.get(), bio, bio);
  SSL_set_accept_state(ssl_.get());
  SSL_set_msg_callback(ssl_.get(), &OnMessage);
  SSL_set_msg_callback_arg(ssl_.get(), this);
  return true;
}

void TlsStream::Stop() {
  ssl_.reset();
  context_.reset();
  if (blocks_ != nullptr) out_.Release(blocks_);
}

absl::string_view TlsStream::server_name() const {
  const char* const name =
      SSL_get_servername(ssl_.get(), TLSEXT_NAMETYPE_host_name);
  return name == nullptr ? "" : name;
}

void TlsStream::Begin(bool peer_closed) {
  peer_closed_ = peer_closed;
  drained_ = false;
  reads_left_ = kReadsPerTurn;
}

TlsStream::Status TlsStream::Classify(bool handshake) {
  more_ = true;
  if ((SSL_get_shutdown(ssl_.get()) & SSL_RECEIVED_SHUTDOWN) != 0 &&
      !handshake) {
    return Status::kEnd;
  }
  const uint64_t error = ERR_peek_error();
  if (error == 0) {
    if (broken_) return Status::kError;
    if (ended_) {
      failure_ = TlsFailure::kClosed;
      return Status::kTruncated;
    }
    if (SSL_want_read(ssl_.get())) {
      more_ = !drained_;
      return Status::kBlocked;
    }
  }
  failure_ = FailureOf(ERR_GET_REASON(error));
  ERR_clear_error();
  failed_ = true;
  return Status::kError;
}

TlsStream::Status TlsStream::Handshake(bool peer_closed) {
  Begin(peer_closed);
  Status status = Status::kOk;
  if (SSL_do_handshake(ssl_.get()) == 1) {
    done_ = true;
    // A ticket that could not be opened is no failure, but leaves its traces.
    ERR_clear_error();
    more_ = !drained_ || SSL_has_pending(ssl_.get()) == 1;
    context_.reset();
  } else {
    status = Classify(true);
  }
  if (Send() == Status::kError && status != Status::kError) {
    failure_ = TlsFailure::kClosed;
    status = Status::kTruncated;
  }
  return status;
}

TlsStream::Status TlsStream::Read(char* to, size_t room, bool peer_closed,
                                  size_t* got) {
  *got = 0;
  Begin(peer_closed);
  if (discarding_) {
    bool retry = false;
    const int size = ReadSocket(to, static_cast<int>(room), &retry);
    more_ = !drained_;
    if (size > 0) *got = static_cast<size_t>(size);
    return size > 0 ? Status::kOk
           : retry  ? Status::kBlocked
           : ended_ ? Status::kEnd
                    : Status::kError;
  }
  if (failed_) return Status::kError;
  Status status = Status::kOk;
  while (*got < room) {
    size_t size = 0;
    if (SSL_read_ex(ssl_.get(), to + *got, room - *got, &size) != 1) {
      status = Classify(false);
      break;
    }
    *got += size;
    key_updates_ = 0;
    more_ = !drained_ || SSL_has_pending(ssl_.get()) == 1;
    if (!more_) break;
  }
  // Answers to messages of TLS itself; if data is on its way, behind it.
  if (!out_.empty() && sealed_ == 0) Send();
  if (*got == 0) return status;
  if (status != Status::kBlocked && status != Status::kOk) more_ = true;
  return Status::kOk;
}

bool TlsStream::Seal(const char* data, size_t size) {
  size_t written = 0;
  if (SSL_write_ex(ssl_.get(), data, size, &written) == 1) return true;
  ERR_clear_error();
  failed_ = true;
  return false;
}

bool TlsStream::SealQueue(const IovecQueue& queue, char* scratch) {
  const iovec* piece = queue.data();
  const iovec* const end = piece + queue.count();
  size_t offset = 0;
  size_t gathered = 0;  // In scratch.
  while (piece != end && sealed_ + gathered < kMaxSealed) {
    const char* const data = static_cast<const char*>(piece->iov_base) + offset;
    const size_t left = piece->iov_len - offset;
    size_t take = std::min(left, kMaxSealed - sealed_ - gathered);
    if (gathered == 0 && (take >= kRecord || piece + 1 == end)) {
      // Whole records straight from where they are, and the rest if it is last.
      if (take > kRecord && piece + 1 != end) take -= take % kRecord;
      if (!Seal(data, take)) return false;
      sealed_ += take;
    } else {
      take = std::min(take, kRecord - gathered);
      std::memcpy(scratch + gathered, data, take);
      gathered += take;
      if (gathered == kRecord) {
        if (!Seal(scratch, gathered)) return false;
        sealed_ += gathered;
        gathered = 0;
      }
    }
    offset += take;
    if (offset == piece->iov_len) {
      ++piece;
      offset = 0;
    }
  }
  if (gathered == 0) return true;
  sealed_ += gathered;
  return Seal(scratch, gathered);
}

TlsStream::Status TlsStream::Send() {
  while (!out_.empty()) {
    const ssize_t sent = send(fd_, out_.data(), out_.size(), MSG_NOSIGNAL);
    if (sent < 0) {
      if (errno == EINTR) continue;
      return errno == EAGAIN || errno == EWOULDBLOCK ? Status::kBlocked
                                                     : Status::kError;
    }
    const bool all = static_cast<size_t>(sent) == out_.size();
    out_.Consume(static_cast<size_t>(sent));
    // A short write has filled the socket: epoll says when there is room.
    if (!all) return Status::kBlocked;
  }
  out_.Settle(blocks_);
  return Status::kOk;
}

TlsStream::Status TlsStream::Write(IovecQueue* queue, int64_t* written,
                                   char* scratch) {
  for (;;) {
    const Status status = Send();
    if (status != Status::kOk) return status;
    queue->Consume(sealed_);
    *written += static_cast<int64_t>(sealed_);
    sealed_ = 0;
    if (queue->empty()) return Status::kOk;
    if (failed_ || !SealQueue(*queue, scratch)) return Status::kError;
  }
}

void TlsStream::QueueEnd() {
  if (!done_ || failed_ || discarding_) return;
  if ((SSL_get_shutdown(ssl_.get()) & SSL_SENT_SHUTDOWN) != 0) return;
  SSL_shutdown(ssl_.get());
  ERR_clear_error();
}

void TlsStream::ReplaceOutput(absl::string_view plain) {
  out_.Consume(out_.size());
  out_.Reserve(blocks_, plain.size());
  std::memcpy(out_.room(), plain.data(), plain.size());
  out_.Added(plain.size());
}

}  // namespace mycelium::edge
