// A strict parser of HTTP/1.1 heads (RFC 9110, RFC 9112) for a gateway: a
// function over bytes that does no I/O and allocates nothing.
//
// The parsers are incremental. Each call gets all bytes of the message so far,
// beginning with its first; the bytes may have moved in memory since the call
// before, but may not have changed. No byte is scanned twice, so a head that
// trickles in byte by byte costs no more than one that comes at once.

#ifndef SERVICES_EDGE_HTTP_PARSER_H_
#define SERVICES_EDGE_HTTP_PARSER_H_

#include <array>
#include <cstddef>
#include <cstdint>

#include "absl/strings/string_view.h"

namespace mycelium::edge {

inline constexpr int kMaxFields = 100;
// Offsets are 16 bits wide, so no limit may be larger than 65,535.
inline constexpr uint32_t kDefaultMaxHeadBytes = 32 * 1024;

// Why a message is refused.
enum class HttpError : uint8_t {
  kNone,
  kBareCr,
  kBareLf,
  kControlByte,
  kBadRequestLine,
  kBadMethod,
  kBadTarget,
  kBadVersion,
  kVersionNotSupported,
  kTargetTooLong,
  kHeadTooLarge,
  kTooManyFields,
  kObsFold,
  kBadFieldName,
  kMissingHost,
  kDuplicateHost,
  kBadHost,
  kBadContentLength,
  kLengthAndCoding,
  kBadTransferEncoding,
  kCodingInHttp10,
  kBadExpect,
  kBadMaxForwards,
  kBadStatusLine,
  kBadChunkSize,
  kBadChunkExtension,
  kBadChunkEnd,
};

// The status that answers a request refused for `error`: 400, 414, 417, 431,
// 501 or 505. Responses that are refused are 502 whatever the error.
int StatusOf(HttpError error);
// A stable name in lower_snake_case, for logs, metrics and error bodies.
absl::string_view NameOf(HttpError error);

enum class ParseStatus : uint8_t { kIncomplete, kDone, kError };

// Fields that mean something to a gateway; all others are kOther.
enum class FieldId : uint8_t {
  kOther,
  kAccept,
  kConnection,
  kContentLength,
  kDate,
  kExpect,
  kHost,
  kHttp2Settings,
  kKeepAlive,
  kMaxForwards,
  kProxy,
  kProxyConnection,
  kTe,
  kTraceparent,
  kTracestate,
  kTrailer,
  kTransferEncoding,
  kUpgrade,
  kVia,
  kRequestId,
  // X-Forwarded-For itself, which a trusted peer's value is taken from.
  kForwardedFor,
  // All that says where a request came from and that only the edge may say:
  // X-Forwarded-*, Forwarded, X-Real-IP, X-Mycelium-*.
  kForwarded,
  // A name that equals one of the above once punctuation is folded to '-', as
  // CGI-like environments do: never forwarded.
  kAlias,
};

FieldId LookupField(absl::string_view name);

// One field line. Offsets count from the first byte of the head.
struct Field {
  uint16_t line = 0;  // First byte of the name.
  uint16_t name_size = 0;
  uint16_t value = 0;  // Without the white space around it.
  uint16_t value_size = 0;
  uint16_t end = 0;  // One past the line's CRLF.
  FieldId id = FieldId::kOther;

  absl::string_view Name(const char* head) const {
    return {head + line, name_size};
  }
  absl::string_view Value(const char* head) const {
    return {head + value, value_size};
  }
};

// Field lines up to and including the empty line.
class FieldSection {
 public:
  // Begins a section at offset `start`.
  void Reset(uint32_t start) {
    count = 0;
    line_ = scan_ = start;
  }

  ParseStatus Parse(absl::string_view bytes, uint32_t max_bytes);

  int count = 0;
  uint32_t end = 0;  // After kDone: one past the empty line.
  HttpError error = HttpError::kNone;
  std::array<Field, kMaxFields> fields;

 private:
  ParseStatus Fail(HttpError why) {
    error = why;
    return ParseStatus::kError;
  }

  uint32_t line_ = 0;  // First byte of the line that is not complete yet.
  uint32_t scan_ = 0;  // Bytes before it hold no control byte of that line.
};

enum class Method : uint8_t {
  kGet,
  kHead,
  kPost,
  kPut,
  kDelete,
  kOptions,
  kTrace,
  kConnect,
  kPatch,
  kOther,
};

// RFC 9110, 9.2.2. What is unknown is not idempotent.
bool IsIdempotent(Method method);

enum class TargetForm : uint8_t { kOrigin, kAbsolute, kAuthority, kAsterisk };

// How the end of a message body is known.
enum class BodyKind : uint8_t { kNone, kLength, kChunked, kUntilClose };

// The head of a request. Reset before first use and between messages.
class RequestHead {
 public:
  void Reset();

  // kDone: the head is valid by all rules for a message in isolation: syntax,
  // Host, body framing, Expect. `bytes` may hold more than the head.
  ParseStatus Parse(absl::string_view bytes,
                    uint32_t max_bytes = kDefaultMaxHeadBytes);

  // After kDone.
  Method method = Method::kOther;
  TargetForm form = TargetForm::kOrigin;
  uint8_t minor_version = 1;  // Of the client: 0 or 1, larger ones are 1.
  BodyKind body = BodyKind::kNone;
  bool close = false;            // The client wants or has to close.
  bool expect_continue = false;  // From a 1.1 client that sends a body.
  bool upgrade = false;          // Connection: upgrade and an Upgrade field.
  // Some Connection field names something but close, keep-alive, upgrade, TE.
  bool has_connection_options = false;
  uint16_t start = 0;  // An empty line before the request line is skipped.
  uint16_t method_size = 0;
  uint16_t target = 0;
  uint16_t target_size = 0;
  uint16_t path = 0;  // The target without scheme and authority.
  uint16_t path_size = 0;
  uint16_t authority = 0;  // Of an absolute-form target.
  uint16_t authority_size = 0;
  uint16_t version = 0;  // Offset of "HTTP/1.1".
  uint16_t size = 0;     // Of the whole head, empty line included.
  int16_t host = -1;     // Index of the Host field.
  uint64_t content_length = 0;
  FieldSection section;

  HttpError error = HttpError::kNone;

 private:
  ParseStatus Fail(HttpError why) {
    error = why;
    return ParseStatus::kError;
  }
  ParseStatus ParseLine(absl::string_view bytes, uint32_t max_bytes);
  HttpError ParseTarget(const char* head);
  HttpError Interpret(const char* head);

  bool line_done_ = false;
  uint32_t scan_ = 0;
};

// The head of a response. Reset before first use and between messages.
class ResponseHead {
 public:
  void Reset();

  // As RequestHead::Parse. `request_method` decides whether there is a body.
  ParseStatus Parse(absl::string_view bytes, Method request_method,
                    uint32_t max_bytes = kDefaultMaxHeadBytes);

  // After kDone.
  int status = 0;
  uint8_t minor_version = 1;
  BodyKind body = BodyKind::kNone;
  bool close = false;  // The origin will close, or its framing forces us to.
  bool upgrade = false;
  bool has_date = false;
  bool has_connection_options = false;
  uint16_t size = 0;
  uint64_t content_length = 0;
  FieldSection section;

  HttpError error = HttpError::kNone;

 private:
  ParseStatus Fail(HttpError why) {
    error = why;
    return ParseStatus::kError;
  }
  ParseStatus ParseLine(absl::string_view bytes, uint32_t max_bytes);
  HttpError Interpret(const char* head, Method request_method);

  bool line_done_ = false;
  uint32_t scan_ = 0;
};

// Whether `text` is `uri-host [ ":" port ]` with a host that is not empty.
bool IsValidHost(absl::string_view text);

// Whether `text` is a token of RFC 9110.
bool IsToken(absl::string_view text);

// ASCII only, as everything in HTTP.
bool EqualsIgnoreCase(absl::string_view a, absl::string_view b);

// Calls `visit(absl::string_view element)` for each element of a
// comma-separated list that is not empty.
template <typename Visit>
void ForEachElement(absl::string_view list, Visit visit) {
  while (!list.empty()) {
    const size_t comma = list.find(',');
    absl::string_view element = list.substr(0, comma);
    while (!element.empty() &&
           (element.front() == ' ' || element.front() == '\t')) {
      element.remove_prefix(1);
    }
    while (!element.empty() &&
           (element.back() == ' ' || element.back() == '\t')) {
      element.remove_suffix(1);
    }
    if (!element.empty()) visit(element);
    if (comma == absl::string_view::npos) return;
    list.remove_prefix(comma + 1);
  }
}

}  // namespace mycelium::edge

#endif  // SERVICES_EDGE_HTTP_PARSER_H_
