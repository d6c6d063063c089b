#ifndef SERVICES_EDGE_TLS_STREAM_H_
#define SERVICES_EDGE_TLS_STREAM_H_

#include <openssl/ssl.h>

#include <cstddef>
#include <cstdint>
#include <memory>

#include "absl/strings/string_view.h"
#include "services/edge/buffer.h"
#include "services/edge/iovec_queue.h"
#include "services/edge/stats.h"
#include "services/edge/tls_context.h"

namespace mycelium::edge {

// The TLS of one accepted socket that does not block and is watched by edges
// of readiness. What OpenSSL writes goes into a buffer and from there to the
// socket in as few calls as possible, so that an operation only ever waits for
// the socket to be readable, or for the buffer to be sent. Holds no buffer
// while nothing is on its way. Not thread-safe.
class TlsStream {
 public:
  enum class Status : uint8_t {
    kOk,
    kBlocked,
    kEnd,        // The peer has said that it sends no more.
    kTruncated,  // The connection ended without that.
    kError,      // Of the connection, or of TLS.
  };

  // The most that is sealed before it is sent; whole records, and room in the
  // buffer for what they add and for a message of TLS itself.
  static constexpr size_t kRecord = 16 * 1024;
  static constexpr size_t kMaxSealed = 4 * kRecord - 1024;

  // Begins; `fd` stays the caller's, `blocks` must outlive Stop. False: out of
  // memory.
  bool Start(std::shared_ptr<const TlsContext> context, int fd,
             BlockPool* blocks);
  bool started() const { return ssl_ != nullptr; }

  // Goes on with the handshake. kOk: it is done. kError: failure() says why,
  // and what the peer has to be told is in the buffer.
  Status Handshake(bool peer_closed);
  bool done() const { return done_; }
  TlsFailure failure() const { return failure_; }

  // Reads as many bytes as there are, up to `room`, into `to`; kOk if it was at
  // least one. `peer_closed` says that the end of the stream is in the socket.
  Status Read(char* to, size_t room, bool peer_closed, size_t* got);
  // Whether the operation before could go on without an event of the socket.
  bool more() const { return more_; }

  // Seals and sends `queue`, and takes off it what the socket has taken, which
  // is added to `written`. Until then the same bytes must stay at the front of
  // the queue, though not at the same place. `scratch` has kRecord bytes.
  Status Write(IovecQueue* queue, int64_t* written, char* scratch);

  // Sends what is in the buffer: kOk when it is empty.
  Status Send();
  // Whether there is something to send, be it messages of TLS itself.
  bool has_output() const { return !out_.empty(); }

  // Queues close_notify, once.
  void QueueEnd();
  // The socket's sending side is to be shut down when the buffer is empty.
  void set_end_when_sent() { end_when_sent_ = true; }
  bool end_when_sent() const { return end_when_sent_; }
  // What comes in is not looked at any more; Read gives it as it is.
  void Discard() { discarding_ = true; }
  // An answer was cut short: closing must not look like an orderly end.
  void set_cut_short() { cut_short_ = true; }
  bool cut_short() const { return cut_short_; }
  // Replaces whatever is in the buffer by bytes for a peer that speaks no TLS.
  void ReplaceOutput(absl::string_view plain);

  // Such as "TLSv1.3"; a constant.
  absl::string_view version() const { return SSL_get_version(ssl_.get()); }
  // The host that the client named; empty if none. Valid until Stop.
  absl::string_view server_name() const;
  bool resumed() const { return SSL_session_reused(ssl_.get()) == 1; }

  // Gives back all memory.
  void Stop();

 private:
  struct FreeSsl {
    void operator()(SSL* ssl) const { SSL_free(ssl); }
  };

  static const BIO_METHOD* Method();
  static int BioRead(BIO* bio, char* data, int size);
  static int BioWrite(BIO* bio, const char* data, int size);
  // NOLINTNEXTLINE(google-runtime-int): the type is OpenSSL's.
  static long BioControl(BIO* bio, int command, long number, void* pointer);

  // Called by OpenSSL for each message of TLS.
  static void OnMessage(int sent, int version, int type, const void* data,
                        size_t size, SSL* ssl, void* self);
  int ReadSocket(char* data, int size, bool* retry);
  void Begin(bool peer_closed);
  // After an operation of OpenSSL that did not succeed.
  Status Classify(bool handshake);
  // False: OpenSSL has failed.
  bool Seal(const char* data, size_t size);
  bool SealQueue(const IovecQueue& queue, char* scratch);

  std::unique_ptr<SSL, FreeSsl> ssl_;
  std::shared_ptr<const TlsContext> context_;  // Until the handshake is done.
  BlockPool* blocks_ = nullptr;
  Buffer out_;
  // Bytes at the front of the queue given to Write that out_ holds, sealed.
  size_t sealed_ = 0;
  int fd_ = -1;
  int reads_left_ = 0;
  int key_updates_ = 0;  // By the peer, since it last sent data.
  TlsFailure failure_ = TlsFailure::kOther;
  bool done_ = false;
  bool failed_ = false;
  bool more_ = false;
  bool drained_ = false;  // Reading the socket now would find nothing.
  bool peer_closed_ = false;
  bool ended_ = false;   // Reading the socket has found its end.
  bool broken_ = false;  // The socket has failed.
  bool discarding_ = false;
  bool end_when_sent_ = false;
  bool cut_short_ = false;
};

}  // namespace mycelium::edge

#endif  // SERVICES_EDGE_TLS_STREAM_H_
