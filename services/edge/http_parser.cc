#include "services/edge/http_parser.h"

#include <cstring>

#include "absl/strings/string_view.h"
#include "services/edge/byte_scan.h"

namespace mycelium::edge {
namespace {

// Bit 0: token characters (RFC 9110, 5.6.2). Bit 1: characters of a host name
// (RFC 3986, 3.2.2) without the comma, which would let two hosts look like one.
constexpr uint8_t kTokenBit = 1;
constexpr uint8_t kHostBit = 2;

constexpr std::array<uint8_t, 256> MakeClasses() {
  std::array<uint8_t, 256> classes{};
  for (int c = '0'; c <= '9'; ++c) classes[c] = kTokenBit | kHostBit;
  for (int c = 'a'; c <= 'z'; ++c) classes[c] = kTokenBit | kHostBit;
  for (int c = 'A'; c <= 'Z'; ++c) classes[c] = kTokenBit | kHostBit;
  for (const char c : {'!', '#', '$', '%', '&', '\'', '*', '+', '-', '.', '^',
                       '_', '`', '|', '~'}) {
    classes[static_cast<unsigned char>(c)] |= kTokenBit;
  }
  for (const char c : {'-', '.', '_', '~', '%', '!', '$', '&', '\'', '(', ')',
                       '*', '+', ';', '='}) {
    classes[static_cast<unsigned char>(c)] |= kHostBit;
  }
  return classes;
}

constexpr std::array<uint8_t, 256> kClasses = MakeClasses();

constexpr bool IsTokenByte(char c) {
  return (kClasses[static_cast<unsigned char>(c)] & kTokenBit) != 0;
}

constexpr bool IsHostByte(char c) {
  return (kClasses[static_cast<unsigned char>(c)] & kHostBit) != 0;
}

constexpr bool IsDigit(char c) { return c >= '0' && c <= '9'; }

constexpr bool IsHexDigit(char c) {
  return IsDigit(c) || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
}

constexpr char ToLower(char c) {
  return c >= 'A' && c <= 'Z' ? static_cast<char>(c + ('a' - 'A')) : c;
}

// Looks for the CRLF of the line that `*scan` is in. kDone: `*scan` is the
// offset of its CR. kIncomplete: `*scan` is where to go on.
ParseStatus FindLineEnd(absl::string_view bytes, uint32_t* scan,
                        HttpError* error) {
  const char* const end = bytes.data() + bytes.size();
  const char* const hit = FindControl(bytes.data() + *scan, end);
  *scan = static_cast<uint32_t>(hit - bytes.data());
  if (hit == end) return ParseStatus::kIncomplete;
  if (*hit != '\r') {
    *error = *hit == '\n' ? HttpError::kBareLf : HttpError::kControlByte;
    return ParseStatus::kError;
  }
  if (hit + 1 == end) return ParseStatus::kIncomplete;
  if (hit[1] != '\n') {
    *error = HttpError::kBareCr;
    return ParseStatus::kError;
  }
  return ParseStatus::kDone;
}

// A version of exactly eight bytes; returns false for any other text.
bool ParseVersion(absl::string_view text, int* major, int* minor) {
  if (text.size() != 8 || text.substr(0, 5) != "HTTP/" || !IsDigit(text[5]) ||
      text[6] != '.' || !IsDigit(text[7])) {
    return false;
  }
  *major = text[5] - '0';
  *minor = text[7] - '0';
  return true;
}

// Digits only, below 2^63.
bool ParseContentLength(absl::string_view text, uint64_t* value) {
  if (text.empty() || text.size() > 19) return false;
  uint64_t result = 0;
  for (const char c : text) {
    if (!IsDigit(c)) return false;
    result = result * 10 + static_cast<uint64_t>(c - '0');  // < 10^19 < 2^64
  }
  if (result > uint64_t{INT64_MAX}) return false;
  *value = result;
  return true;
}

Method LookupMethod(absl::string_view name) {
  switch (name.size()) {
    case 3:
      if (name == "GET") return Method::kGet;
      if (name == "PUT") return Method::kPut;
      break;
    case 4:
      if (name == "HEAD") return Method::kHead;
      if (name == "POST") return Method::kPost;
      break;
    case 5:
      if (name == "PATCH") return Method::kPatch;
      if (name == "TRACE") return Method::kTrace;
      break;
    case 6:
      if (name == "DELETE") return Method::kDelete;
      break;
    case 7:
      if (name == "OPTIONS") return Method::kOptions;
      if (name == "CONNECT") return Method::kConnect;
      break;
    default:
      break;
  }
  return Method::kOther;
}

// `lower` is in lower case.
FieldId LookupLower(absl::string_view lower) {
  switch (lower.size()) {
    case 2:
      if (lower == "te") return FieldId::kTe;
      break;
    case 3:
      if (lower == "via") return FieldId::kVia;
      break;
    case 4:
      if (lower == "host") return FieldId::kHost;
      if (lower == "date") return FieldId::kDate;
      break;
    case 5:
      if (lower == "proxy") return FieldId::kProxy;
      break;
    case 6:
      if (lower == "accept") return FieldId::kAccept;
      if (lower == "expect") return FieldId::kExpect;
      break;
    case 7:
      if (lower == "upgrade") return FieldId::kUpgrade;
      if (lower == "trailer") return FieldId::kTrailer;
      break;
    case 9:
      if (lower == "forwarded" || lower == "x-real-ip")
        return FieldId::kForwarded;
      break;
    case 10:
      if (lower == "connection") return FieldId::kConnection;
      if (lower == "keep-alive") return FieldId::kKeepAlive;
      if (lower == "tracestate") return FieldId::kTracestate;
      break;
    case 11:
      if (lower == "traceparent") return FieldId::kTraceparent;
      break;
    case 12:
      if (lower == "x-request-id") return FieldId::kRequestId;
      if (lower == "max-forwards") return FieldId::kMaxForwards;
      break;
    case 14:
      if (lower == "content-length") return FieldId::kContentLength;
      if (lower == "http2-settings") return FieldId::kHttp2Settings;
      break;
    case 15:
      if (lower == "x-forwarded-for") return FieldId::kForwardedFor;
      break;
    case 16:
      if (lower == "proxy-connection") return FieldId::kProxyConnection;
      break;
    case 17:
      if (lower == "transfer-encoding") return FieldId::kTransferEncoding;
      break;
    default:
      break;
  }
  if (lower.size() > 11 && (lower.substr(0, 12) == "x-forwarded-" ||
                            lower.substr(0, 11) == "x-mycelium-")) {
    return FieldId::kForwarded;
  }
  return FieldId::kOther;
}

// Each option is compared with each field, so there must be an end to both.
constexpr int kMaxConnectionOptions = 32;

struct ConnectionOptions {
  bool close = false;
  bool keep_alive = false;
  bool upgrade = false;
  bool other = false;
  int count = 0;

  void Add(absl::string_view value) {
    ForEachElement(value, [this](absl::string_view option) {
      ++count;
      if (EqualsIgnoreCase(option, "close")) {
        close = true;
      } else if (EqualsIgnoreCase(option, "keep-alive")) {
        keep_alive = true;
      } else if (EqualsIgnoreCase(option, "upgrade")) {
        upgrade = true;
      } else if (!EqualsIgnoreCase(option, "te")) {  // Cut in any case.
        other = true;
      }
    });
  }
};

// What both kinds of heads say about the body.
struct Framing {
  int lengths = 0;
  int codings = 0;
  bool chunked = false;
  uint64_t length = 0;

  HttpError Add(const Field& field, const char* head) {
    if (field.id == FieldId::kContentLength) {
      // Equal ones could be collapsed, but whoever repeats the field is
      // either broken or probing.
      if (++lengths > 1 || !ParseContentLength(field.Value(head), &length)) {
        return HttpError::kBadContentLength;
      }
    } else if (field.id == FieldId::kTransferEncoding) {
      chunked = EqualsIgnoreCase(field.Value(head), "chunked");
      if (++codings > 1 || !chunked) return HttpError::kBadTransferEncoding;
    }
    return HttpError::kNone;
  }

  HttpError Check(int minor_version) const {
    if (codings > 0 && minor_version == 0) return HttpError::kCodingInHttp10;
    if (codings > 0 && lengths > 0) return HttpError::kLengthAndCoding;
    return HttpError::kNone;
  }
};

bool IsValidPort(absl::string_view port) {
  if (port.size() > 5) return false;
  int value = 0;
  for (const char c : port) {
    if (!IsDigit(c)) return false;
    value = value * 10 + (c - '0');
  }
  return value <= 65535;
}

}  // namespace

int StatusOf(HttpError error) {
  switch (error) {
    case HttpError::kTargetTooLong:
      return 414;
    case HttpError::kHeadTooLarge:
    case HttpError::kTooManyFields:
      return 431;
    case HttpError::kBadExpect:
      return 417;
    case HttpError::kVersionNotSupported:
      return 505;
    default:
      return 400;
  }
}

absl::string_view NameOf(HttpError error) {
  switch (error) {
    case HttpError::kNone:
      return "none";
    case HttpError::kBareCr:
      return "bare_cr";
    case HttpError::kBareLf:
      return "bare_lf";
    case HttpError::kControlByte:
      return "control_byte";
    case HttpError::kBadRequestLine:
      return "bad_request_line";
    case HttpError::kBadMethod:
      return "bad_method";
    case HttpError::kBadTarget:
      return "bad_target";
    case HttpError::kBadVersion:
      return "bad_version";
    case HttpError::kVersionNotSupported:
      return "version_not_supported";
    case HttpError::kTargetTooLong:
      return "target_too_long";
    case HttpError::kHeadTooLarge:
      return "head_too_large";
    case HttpError::kTooManyFields:
      return "too_many_fields";
    case HttpError::kObsFold:
      return "line_folding";
    case HttpError::kBadFieldName:
      return "bad_field_name";
    case HttpError::kMissingHost:
      return "missing_host";
    case HttpError::kDuplicateHost:
      return "duplicate_host";
    case HttpError::kBadHost:
      return "bad_host";
    case HttpError::kBadContentLength:
      return "bad_content_length";
    case HttpError::kLengthAndCoding:
      return "content_length_and_transfer_encoding";
    case HttpError::kBadTransferEncoding:
      return "bad_transfer_encoding";
    case HttpError::kCodingInHttp10:
      return "transfer_encoding_in_http_1_0";
    case HttpError::kBadExpect:
      return "unknown_expectation";
    case HttpError::kBadMaxForwards:
      return "bad_max_forwards";
    case HttpError::kBadStatusLine:
      return "bad_status_line";
    case HttpError::kBadChunkSize:
      return "bad_chunk_size";
    case HttpError::kBadChunkExtension:
      return "bad_chunk_extension";
    case HttpError::kBadChunkEnd:
      return "bad_chunk_end";
  }
  return "unknown";
}

FieldId LookupField(absl::string_view name) {
  std::array<char, 18> lower;
  // Longer names matter by their prefix only.
  const size_t size = name.size() < lower.size() ? name.size() : lower.size();
  bool folded = false;
  for (size_t i = 0; i < size; ++i) {
    const char c = ToLower(name[i]);
    const bool plain = (c >= 'a' && c <= 'z') || IsDigit(c) || c == '-';
    lower[i] = plain ? c : '-';
    folded |= !plain;
  }
  const FieldId id = LookupLower({lower.data(), size});
  if (folded && id != FieldId::kOther) return FieldId::kAlias;
  return id;
}

bool EqualsIgnoreCase(absl::string_view a, absl::string_view b) {
  if (a.size() != b.size()) return false;
  for (size_t i = 0; i < a.size(); ++i) {
    if (ToLower(a[i]) != ToLower(b[i])) return false;
  }
  return true;
}

bool IsToken(absl::string_view text) {
  for (const char c : text) {
    if (!IsTokenByte(c)) return false;
  }
  return !text.empty();
}

bool IsIdempotent(Method method) {
  switch (method) {
    case Method::kGet:
    case Method::kHead:
    case Method::kPut:
    case Method::kDelete:
    case Method::kOptions:
    case Method::kTrace:
      return true;
    default:
      return false;
  }
}

bool IsValidHost(absl::string_view text) {
  if (text.empty()) return false;
  absl::string_view rest;
  if (text.front() == '[') {
    const size_t close = text.find(']');
    if (close == absl::string_view::npos || close < 3) return false;
    for (const char c : text.substr(1, close - 1)) {
      if (!IsHexDigit(c) && c != ':' && c != '.') return false;
    }
    rest = text.substr(close + 1);
  } else {
    const size_t colon = text.find(':');
    const absl::string_view host = text.substr(0, colon);
    if (host.empty()) return false;
    for (size_t i = 0; i < host.size(); ++i) {
      if (!IsHostByte(host[i])) return false;
      if (host[i] == '%' && (i + 2 >= host.size() || !IsHexDigit(host[i + 1]) ||
                             !IsHexDigit(host[i + 2]))) {
        return false;
      }
    }
    rest = colon == absl::string_view::npos ? absl::string_view()
                                            : text.substr(colon);
  }
  if (rest.empty()) return true;
  return rest.front() == ':' && IsValidPort(rest.substr(1));
}

ParseStatus FieldSection::Parse(absl::string_view bytes, uint32_t max_bytes) {
  const char* const head = bytes.data();
  for (;;) {
    HttpError line_error = HttpError::kNone;
    switch (FindLineEnd(bytes, &scan_, &line_error)) {
      case ParseStatus::kError:
        return Fail(line_error);
      case ParseStatus::kIncomplete:
        if (bytes.size() >= max_bytes) return Fail(HttpError::kHeadTooLarge);
        return ParseStatus::kIncomplete;
      case ParseStatus::kDone:
        break;
    }
    const uint32_t cr = scan_;
    if (cr + 2 > max_bytes) return Fail(HttpError::kHeadTooLarge);
    if (cr == line_) {
      end = cr + 2;
      return ParseStatus::kDone;
    }
    if (count == kMaxFields) return Fail(HttpError::kTooManyFields);
    if (head[line_] == ' ' || head[line_] == '\t')
      return Fail(HttpError::kObsFold);

    uint32_t name_end = line_;
    while (name_end < cr && IsTokenByte(head[name_end])) ++name_end;
    if (name_end == line_ || name_end == cr || head[name_end] != ':') {
      return Fail(HttpError::kBadFieldName);
    }
    uint32_t value = name_end + 1;
    uint32_t value_end = cr;
    while (value < value_end && (head[value] == ' ' || head[value] == '\t'))
      ++value;
    while (value_end > value &&
           (head[value_end - 1] == ' ' || head[value_end - 1] == '\t')) {
      --value_end;
    }

    Field& field = fields[count++];
    field.line = static_cast<uint16_t>(line_);
    field.name_size = static_cast<uint16_t>(name_end - line_);
    field.value = static_cast<uint16_t>(value);
    field.value_size = static_cast<uint16_t>(value_end - value);
    field.end = static_cast<uint16_t>(cr + 2);
    field.id = LookupField(field.Name(head));
    line_ = scan_ = cr + 2;
  }
}

void RequestHead::Reset() {
  method = Method::kOther;
  form = TargetForm::kOrigin;
  minor_version = 1;
  body = BodyKind::kNone;
  close = expect_continue = upgrade = has_connection_options = false;
  start = method_size = target = target_size = path = path_size = 0;
  authority = authority_size = version = size = 0;
  host = -1;
  content_length = 0;
  error = HttpError::kNone;
  line_done_ = false;
  scan_ = 0;
}

ParseStatus RequestHead::Parse(absl::string_view bytes, uint32_t max_bytes) {
  if (!line_done_) {
    const ParseStatus status = ParseLine(bytes, max_bytes);
    if (status != ParseStatus::kDone) return status;
    line_done_ = true;
  }
  switch (section.Parse(bytes, max_bytes)) {
    case ParseStatus::kIncomplete:
      return ParseStatus::kIncomplete;
    case ParseStatus::kError:
      return Fail(section.error);
    case ParseStatus::kDone:
      break;
  }
  size = static_cast<uint16_t>(section.end);
  const HttpError why = Interpret(bytes.data());
  return why == HttpError::kNone ? ParseStatus::kDone : Fail(why);
}

ParseStatus RequestHead::ParseLine(absl::string_view bytes,
                                   uint32_t max_bytes) {
  const char* const head = bytes.data();
  for (;;) {
    HttpError line_error = HttpError::kNone;
    switch (FindLineEnd(bytes, &scan_, &line_error)) {
      case ParseStatus::kError:
        return Fail(line_error);
      case ParseStatus::kIncomplete:
        if (bytes.size() >= max_bytes) return Fail(HttpError::kTargetTooLong);
        return ParseStatus::kIncomplete;
      case ParseStatus::kDone:
        break;
    }
    // Some clients send a CRLF too many after a body (RFC 9112, 2.2).
    if (scan_ != 0 || start != 0) break;
    start = 2;
    scan_ = 2;
  }
  const uint32_t cr = scan_;
  if (cr + 2 > max_bytes) return Fail(HttpError::kTargetTooLong);

  const absl::string_view line = bytes.substr(start, cr - start);
  const size_t first = line.find(' ');
  if (first == absl::string_view::npos) return Fail(HttpError::kBadRequestLine);
  const absl::string_view name = line.substr(0, first);
  if (!IsToken(name)) return Fail(HttpError::kBadMethod);
  const size_t second = line.find(' ', first + 1);
  if (second == absl::string_view::npos)
    return Fail(HttpError::kBadRequestLine);

  int major = 0;
  int minor = 0;
  if (!ParseVersion(line.substr(second + 1), &major, &minor)) {
    return Fail(HttpError::kBadVersion);
  }
  if (major != 1) return Fail(HttpError::kVersionNotSupported);
  minor_version = minor == 0 ? 0 : 1;

  method = LookupMethod(name);
  method_size = static_cast<uint16_t>(first);
  target = static_cast<uint16_t>(start + first + 1);
  target_size = static_cast<uint16_t>(second - first - 1);
  version = static_cast<uint16_t>(start + second + 1);
  const HttpError why = ParseTarget(head);
  if (why != HttpError::kNone) return Fail(why);

  section.Reset(cr + 2);
  return ParseStatus::kDone;
}

HttpError RequestHead::ParseTarget(const char* head) {
  const absl::string_view text(head + target, target_size);
  if (text.empty()) return HttpError::kBadRequestLine;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte <= 0x20 || byte >= 0x7f || c == '#') return HttpError::kBadTarget;
  }
  path = target;
  path_size = target_size;
  if (method == Method::kConnect) {
    form = TargetForm::kAuthority;
    return IsValidHost(text) ? HttpError::kNone : HttpError::kBadTarget;
  }
  if (text.front() == '/') {
    form = TargetForm::kOrigin;
    return HttpError::kNone;
  }
  if (text == "*") {
    form = TargetForm::kAsterisk;
    return method == Method::kOptions ? HttpError::kNone
                                      : HttpError::kBadTarget;
  }
  size_t scheme = 0;
  if (text.size() > 7 && EqualsIgnoreCase(text.substr(0, 7), "http://"))
    scheme = 7;
  if (text.size() > 8 && EqualsIgnoreCase(text.substr(0, 8), "https://"))
    scheme = 8;
  if (scheme == 0) return HttpError::kBadTarget;
  form = TargetForm::kAbsolute;
  size_t authority_end = text.find_first_of("/?", scheme);
  if (authority_end == absl::string_view::npos) authority_end = text.size();
  authority = static_cast<uint16_t>(target + scheme);
  authority_size = static_cast<uint16_t>(authority_end - scheme);
  path = static_cast<uint16_t>(target + authority_end);
  path_size = static_cast<uint16_t>(text.size() - authority_end);
  return IsValidHost({head + authority, authority_size})
             ? HttpError::kNone
             : HttpError::kBadTarget;
}

HttpError RequestHead::Interpret(const char* head) {
  Framing framing;
  ConnectionOptions options;
  bool wants_upgrade = false;
  bool expects = false;
  for (int i = 0; i < section.count; ++i) {
    const Field& field = section.fields[i];
    switch (field.id) {
      case FieldId::kHost:
        if (host >= 0) return HttpError::kDuplicateHost;
        if (!IsValidHost(field.Value(head))) return HttpError::kBadHost;
        host = static_cast<int16_t>(i);
        break;
      case FieldId::kContentLength:
      case FieldId::kTransferEncoding: {
        const HttpError why = framing.Add(field, head);
        if (why != HttpError::kNone) return why;
        break;
      }
      case FieldId::kConnection:
        options.Add(field.Value(head));
        break;
      case FieldId::kUpgrade:
        wants_upgrade = true;
        break;
      case FieldId::kExpect:
        // A 1.0 client cannot know the field (RFC 9110, 10.1.1).
        if (minor_version == 0) break;
        if (!EqualsIgnoreCase(field.Value(head), "100-continue"))
          return HttpError::kBadExpect;
        expects = true;
        break;
      default:
        break;
    }
  }
  if (host < 0 && minor_version > 0) return HttpError::kMissingHost;
  if (options.count > kMaxConnectionOptions) return HttpError::kTooManyFields;
  const HttpError why = framing.Check(minor_version);
  if (why != HttpError::kNone) return why;

  if (framing.chunked) {
    body = BodyKind::kChunked;
  } else if (framing.lengths > 0) {
    content_length = framing.length;
    body = BodyKind::kLength;
  }
  const bool has_body = body == BodyKind::kChunked ||
                        (body == BodyKind::kLength && content_length > 0);
  expect_continue = expects && has_body;
  // RFC 9112, 9.3: no persistent connections with HTTP/1.0 clients.
  close = options.close || minor_version == 0;
  upgrade = wants_upgrade && options.upgrade && minor_version > 0 && !has_body;
  has_connection_options = options.other;
  return HttpError::kNone;
}

void ResponseHead::Reset() {
  status = 0;
  minor_version = 1;
  body = BodyKind::kNone;
  close = upgrade = has_date = has_connection_options = false;
  size = 0;
  content_length = 0;
  error = HttpError::kNone;
  line_done_ = false;
  scan_ = 0;
}

ParseStatus ResponseHead::Parse(absl::string_view bytes, Method request_method,
                                uint32_t max_bytes) {
  if (!line_done_) {
    const ParseStatus line_status = ParseLine(bytes, max_bytes);
    if (line_status != ParseStatus::kDone) return line_status;
    line_done_ = true;
  }
  switch (section.Parse(bytes, max_bytes)) {
    case ParseStatus::kIncomplete:
      return ParseStatus::kIncomplete;
    case ParseStatus::kError:
      return Fail(section.error);
    case ParseStatus::kDone:
      break;
  }
  size = static_cast<uint16_t>(section.end);
  const HttpError why = Interpret(bytes.data(), request_method);
  return why == HttpError::kNone ? ParseStatus::kDone : Fail(why);
}

ParseStatus ResponseHead::ParseLine(absl::string_view bytes,
                                    uint32_t max_bytes) {
  HttpError line_error = HttpError::kNone;
  switch (FindLineEnd(bytes, &scan_, &line_error)) {
    case ParseStatus::kError:
      return Fail(line_error);
    case ParseStatus::kIncomplete:
      if (bytes.size() >= max_bytes) return Fail(HttpError::kHeadTooLarge);
      return ParseStatus::kIncomplete;
    case ParseStatus::kDone:
      break;
  }
  const absl::string_view line = bytes.substr(0, scan_);
  int major = 0;
  int minor = 0;
  if (line.size() < 12 || !ParseVersion(line.substr(0, 8), &major, &minor) ||
      major != 1 || line[8] != ' ' || !IsDigit(line[9]) || !IsDigit(line[10]) ||
      !IsDigit(line[11])) {
    return Fail(HttpError::kBadStatusLine);
  }
  // The space before an empty reason is required, and often forgotten.
  if (line.size() > 12 && line[12] != ' ')
    return Fail(HttpError::kBadStatusLine);
  status = (line[9] - '0') * 100 + (line[10] - '0') * 10 + (line[11] - '0');
  if (status < 100 || status > 599) return Fail(HttpError::kBadStatusLine);
  minor_version = minor == 0 ? 0 : 1;
  section.Reset(scan_ + 2);
  return ParseStatus::kDone;
}

HttpError ResponseHead::Interpret(const char* head, Method request_method) {
  Framing framing;
  ConnectionOptions options;
  bool has_upgrade = false;
  for (int i = 0; i < section.count; ++i) {
    const Field& field = section.fields[i];
    switch (field.id) {
      case FieldId::kContentLength:
      case FieldId::kTransferEncoding: {
        const HttpError why = framing.Add(field, head);
        if (why != HttpError::kNone) return why;
        break;
      }
      case FieldId::kConnection:
        options.Add(field.Value(head));
        break;
      case FieldId::kUpgrade:
        has_upgrade = true;
        break;
      case FieldId::kDate:
        has_date = true;
        break;
      default:
        break;
    }
  }
  if (options.count > kMaxConnectionOptions) return HttpError::kTooManyFields;
  const HttpError why = framing.Check(minor_version);
  if (why != HttpError::kNone) return why;

  close = options.close || (minor_version == 0 && !options.keep_alive);
  upgrade = has_upgrade && options.upgrade;
  has_connection_options = options.other;
  content_length = framing.length;
  if (status < 200 || status == 204) {
    // These have no body, and may not announce one; an origin that does may
    // send it, so the connection is not used again.
    if (framing.codings > 0 || (framing.lengths > 0 && framing.length > 0))
      close = true;
    body = BodyKind::kNone;
  } else if (status == 304 || request_method == Method::kHead) {
    body = BodyKind::kNone;
  } else if (framing.chunked) {
    body = BodyKind::kChunked;
  } else if (framing.lengths > 0) {
    body = BodyKind::kLength;
  } else {
    body = BodyKind::kUntilClose;
    close = true;
  }
  return HttpError::kNone;
}

}  // namespace mycelium::edge
