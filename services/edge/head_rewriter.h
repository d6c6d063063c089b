// Turns the head that came in into the head that goes out (RFC 9110, 7.6),
// without copying what stays as it is.

#ifndef SERVICES_EDGE_HEAD_REWRITER_H_
#define SERVICES_EDGE_HEAD_REWRITER_H_

#include <array>
#include <cstddef>
#include <cstdint>

#include "absl/strings/string_view.h"
#include "services/edge/http_parser.h"
#include "services/edge/iovec_queue.h"

namespace mycelium::edge {

// Room for the lines that the edge adds to one head. What is appended beyond
// it is a bug, not input: everything unbounded goes by reference.
class TextBuffer {
 public:
  void Clear() { size_ = 0; }
  const char* position() const { return bytes_.data() + size_; }
  void Append(absl::string_view text);
  void AppendNumber(uint64_t number);
  size_t size() const { return size_; }
  absl::string_view view() const { return {bytes_.data(), size_}; }

 private:
  size_t size_ = 0;
  std::array<char, 768> bytes_;
};

// W3C Trace Context (level 2) as a request brought it.
struct TraceContext {
  bool valid = false;       // One traceparent, and it is valid: it passes.
  bool keep_state = false;  // tracestate passes too.
  bool sampled = false;
  absl::string_view trace_id;  // 32 digits of the head, if valid.
};

TraceContext FindTraceContext(const RequestHead& head, const char* bytes);

// A traceparent of version 00, for a request that brought none.
using TraceparentText = std::array<char, 55>;
// `trace_id` is of 32 and `parent_id` of 16 lower-case hexadecimal digits that
// were chosen at random, neither all zero.
void FormatTraceparent(absl::string_view trace_id, absl::string_view parent_id,
                       bool sampled, TraceparentText* out);

struct RequestRewrite {
  absl::string_view client_ip;
  absl::string_view scheme = "http";
  uint16_t listen_port = 0;
  absl::string_view app;
  absl::string_view request_id;
  absl::string_view via;        // Pseudonym of this edge.
  absl::string_view authority;  // Of the endpoint; Host if there was none.
  bool trusted_peer = false;
  bool forward_upgrade = false;
  // What of the head's own trace context passes, or else a new traceparent;
  // empty: none.
  bool keep_traceparent = false;
  bool keep_tracestate = false;
  absl::string_view new_traceparent;
};

// Makes the request line say `rest` (a part of the target that ends where the
// target ends) and HTTP/1.1, in place. Returns the offset at which the line
// now begins (or would, in absolute form). Once per head only.
uint16_t PatchRequestLine(const RequestHead& head, char* bytes,
                          absl::string_view rest);

// Queues the head for an endpoint. `line` is what PatchRequestLine returned;
// `text` is cleared and must live until the queue is written.
void RewriteRequest(const RequestHead& head, const char* bytes, uint16_t line,
                    const RequestRewrite& with, TextBuffer* text,
                    IovecQueue* out);

struct ResponseRewrite {
  absl::string_view via;
  absl::string_view request_id;
  absl::string_view date;  // Added if the origin gave none.
  // How the body goes to the client; kChunked also for one that came otherwise.
  BodyKind body = BodyKind::kNone;
  bool keep_content_length = true;
  bool close = false;
  bool upgraded = false;  // The answer is 101.
};

// Queues a response head for the client; `bytes` is patched to say HTTP/1.1.
void RewriteResponse(const ResponseHead& head, char* bytes,
                     const ResponseRewrite& with, TextBuffer* text,
                     IovecQueue* out);

// Queues the fields of a trailer section that may be forwarded: everything but
// framing, routing, hop-by-hop and the edge's own.
void RewriteTrailers(const FieldSection& section, const char* bytes,
                     IovecQueue* out);

// Whether an Upgrade field may pass: not HTTP/2, which would carry requests
// past the edge, and not TLS.
bool MayForwardUpgrade(const RequestHead& head, const char* bytes);

// Whether a 101 names only protocols that the request asked for.
bool IsUpgradeAskedFor(const RequestHead& request, const char* request_bytes,
                       const ResponseHead& response,
                       const char* response_bytes);

// W3C Trace Context, level 2: a `traceparent` that may be passed on.
bool IsValidTraceparent(absl::string_view value);

}  // namespace mycelium::edge

#endif  // SERVICES_EDGE_HEAD_REWRITER_H_
