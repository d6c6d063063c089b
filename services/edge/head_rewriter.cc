#include "services/edge/head_rewriter.h"

#include <algorithm>
#include <charconv>
#include <cstring>

namespace mycelium::edge {
namespace {

constexpr size_t kMaxTracestateBytes = 512;

// Whether a Connection field of the head names `name`.
bool IsConnectionOption(const FieldSection& section, const char* bytes,
                        absl::string_view name) {
  bool found = false;
  for (int i = 0; i < section.count && !found; ++i) {
    const Field& field = section.fields[i];
    if (field.id != FieldId::kConnection) continue;
    ForEachElement(field.Value(bytes), [&](absl::string_view option) {
      found = found || EqualsIgnoreCase(option, name);
    });
  }
  return found;
}

// Whether a Connection field of the same head names `field`.
template <typename Head>
bool IsHopByHop(const Head& head, const Field& field, const char* bytes) {
  return head.has_connection_options &&
         IsConnectionOption(head.section, bytes, field.Name(bytes));
}

// Whether the digits of `field` can be written in no other way.
bool IsCanonicalNumber(const Field& field, const char* bytes) {
  return field.value + field.value_size + 2 == field.end &&
         (field.value_size == 1 || bytes[field.value] != '0') &&
         bytes[field.value - 1] != '\t';
}

bool IsLowerHex(absl::string_view text) {
  for (const char c : text) {
    if ((c < '0' || c > '9') && (c < 'a' || c > 'f')) return false;
  }
  return true;
}

bool IsAllZero(absl::string_view text) {
  return text.find_first_not_of('0') == absl::string_view::npos;
}

enum class Disposition : uint8_t { kKeep, kCut };

Disposition OfRequestField(const Field& field, const RequestHead& head,
                           const char* bytes, const RequestRewrite& with) {
  switch (field.id) {
    case FieldId::kConnection:
    case FieldId::kKeepAlive:
    case FieldId::kProxyConnection:
    case FieldId::kTe:
    case FieldId::kTransferEncoding:
    case FieldId::kContentLength:
    case FieldId::kHttp2Settings:
    case FieldId::kProxy:
    case FieldId::kAlias:
      return Disposition::kCut;
    case FieldId::kUpgrade:
      return with.forward_upgrade ? Disposition::kKeep : Disposition::kCut;
    case FieldId::kHost:
      return head.form == TargetForm::kAbsolute ? Disposition::kCut
                                                : Disposition::kKeep;
    case FieldId::kExpect:
      return head.expect_continue ? Disposition::kKeep : Disposition::kCut;
    case FieldId::kMaxForwards:
      return head.method == Method::kOptions ? Disposition::kCut
                                             : Disposition::kKeep;
    case FieldId::kRequestId:
      return Disposition::kCut;
    case FieldId::kForwardedFor:
      return with.trusted_peer ? Disposition::kKeep : Disposition::kCut;
    case FieldId::kForwarded:
      // -Prefix of a trusted peer is written anew, ours appended.
      if (!with.trusted_peer) return Disposition::kCut;
      return EqualsIgnoreCase(field.Name(bytes), "x-forwarded-prefix")
                 ? Disposition::kCut
                 : Disposition::kKeep;
    case FieldId::kTraceparent:
      return with.keep_traceparent ? Disposition::kKeep : Disposition::kCut;
    case FieldId::kTracestate:
      return with.keep_tracestate ? Disposition::kKeep : Disposition::kCut;
    default:
      break;
  }
  return IsHopByHop(head, field, bytes) ? Disposition::kCut
                                        : Disposition::kKeep;
}

const Field* FindForwarded(const RequestHead& head, const char* bytes,
                           absl::string_view name) {
  for (int i = 0; i < head.section.count; ++i) {
    const Field& field = head.section.fields[i];
    if (field.id == FieldId::kForwarded &&
        EqualsIgnoreCase(field.Name(bytes), name)) {
      return &field;
    }
  }
  return nullptr;
}

// Queues what was appended to `text` since `*from`, and moves `*from` on.
void Emit(const TextBuffer& text, const char** from, IovecQueue* out) {
  out->Add(*from, static_cast<size_t>(text.position() - *from));
  *from = text.position();
}

}  // namespace

TraceContext FindTraceContext(const RequestHead& head, const char* bytes) {
  TraceContext context;
  int parents = 0;
  size_t state_bytes = 0;
  for (int i = 0; i < head.section.count; ++i) {
    const Field& field = head.section.fields[i];
    if (field.id == FieldId::kTracestate) {
      // Several fields are one list.
      state_bytes += (state_bytes > 0 ? 1 : 0) + field.value_size;
    } else if (field.id == FieldId::kTraceparent) {
      ++parents;
      const absl::string_view value = field.Value(bytes);
      context.valid = IsValidTraceparent(value);
      if (!context.valid) continue;
      context.trace_id = value.substr(3, 32);
      // The last bit of the flags.
      const char flags = value[54];
      context.sampled =
          ((flags <= '9' ? flags - '0' : flags - 'a' + 10) & 1) != 0;
    }
  }
  if (parents != 1 || !context.valid) return {};
  context.keep_state = state_bytes <= kMaxTracestateBytes;
  return context;
}

void FormatTraceparent(absl::string_view trace_id, absl::string_view parent_id,
                       bool sampled, TraceparentText* out) {
  char* at = out->data();
  const auto append = [&at](absl::string_view text) {
    text.copy(at, text.size());
    at += text.size();
  };
  append("00-");
  append(trace_id);
  append("-");
  append(parent_id);
  // Bit 1 says that the id is random.
  append(sampled ? "-03" : "-02");
}

void TextBuffer::Append(absl::string_view text) {
  const size_t take = std::min(text.size(), bytes_.size() - size_);
  std::memcpy(bytes_.data() + size_, text.data(), take);
  size_ += take;
}

void TextBuffer::AppendNumber(uint64_t number) {
  std::array<char, 20> digits;
  const auto [end, error] =
      std::to_chars(digits.data(), digits.data() + digits.size(), number);
  Append({digits.data(), static_cast<size_t>(end - digits.data())});
}

uint16_t PatchRequestLine(const RequestHead& head, char* bytes,
                          absl::string_view rest) {
  const auto rest_at = static_cast<size_t>(rest.data() - bytes);
  const size_t line = rest_at - head.method_size - 1;
  // In absolute form the authority stands where the method would have to go,
  // and is still needed for Host.
  if (head.form != TargetForm::kAbsolute) {
    std::memmove(bytes + line, bytes + head.start, head.method_size);
    bytes[line + head.method_size] = ' ';
  }
  // Not a string: the head goes on behind it.
  // NOLINTNEXTLINE(bugprone-not-null-terminated-result)
  std::memcpy(bytes + head.version, "HTTP/1.1", 8);
  return static_cast<uint16_t>(line);
}

void RewriteRequest(const RequestHead& head, const char* bytes, uint16_t line,
                    const RequestRewrite& with, TextBuffer* text,
                    IovecQueue* out) {
  text->Clear();
  const FieldSection& section = head.section;
  const uint32_t fields_at = head.version + 10U;
  if (head.form == TargetForm::kAbsolute) {
    const uint32_t rest = line + head.method_size + 1U;
    out->Add(bytes + head.start, head.method_size + 1U);
    out->Add(bytes + rest, fields_at - rest);
  } else {
    out->Add(bytes + line, fields_at - line);
  }

  const char* from = text->position();
  if (head.form == TargetForm::kAbsolute) {
    out->Add("Host: ");
    out->Add(bytes + head.authority, head.authority_size);
    out->Add("\r\n");
  } else if (head.host < 0) {
    out->Add("Host: ");
    out->Add(with.authority);
    out->Add("\r\n");
  }
  const Field* outer_prefix = nullptr;
  const Field* outer_proto = nullptr;
  const Field* outer_host = nullptr;
  const Field* outer_port = nullptr;
  if (with.trusted_peer) {
    outer_prefix = FindForwarded(head, bytes, "x-forwarded-prefix");
    outer_proto = FindForwarded(head, bytes, "x-forwarded-proto");
    outer_host = FindForwarded(head, bytes, "x-forwarded-host");
    outer_port = FindForwarded(head, bytes, "x-forwarded-port");
  }
  bool counted_down = false;
  for (int i = 0; i < section.count; ++i) {
    const Field& field = section.fields[i];
    if (OfRequestField(field, head, bytes, with) == Disposition::kKeep) {
      out->Add(bytes + field.line, static_cast<size_t>(field.end - field.line));
      continue;
    }
    if (field.id == FieldId::kMaxForwards && !counted_down) {
      counted_down = true;
      uint64_t hops = 0;
      const absl::string_view value = field.Value(bytes);
      std::from_chars(value.data(), value.data() + value.size(), hops);
      text->Append("Max-Forwards: ");
      text->AppendNumber(hops > 0 ? hops - 1 : 0);
      text->Append("\r\n");
      Emit(*text, &from, out);
    }
  }

  text->Append("X-Forwarded-For: ");
  text->Append(with.client_ip);
  if (outer_proto == nullptr) {
    text->Append("\r\nX-Forwarded-Proto: ");
    text->Append(with.scheme);
  }
  if (outer_port == nullptr) {
    text->Append("\r\nX-Forwarded-Port: ");
    text->AppendNumber(with.listen_port);
  }
  text->Append("\r\nX-Request-Id: ");
  text->Append(with.request_id);
  if (!with.new_traceparent.empty()) {
    text->Append("\r\ntraceparent: ");
    text->Append(with.new_traceparent);
  }
  text->Append(head.minor_version == 0 ? "\r\nVia: 1.0 " : "\r\nVia: 1.1 ");
  text->Append(with.via);
  if (with.forward_upgrade) text->Append("\r\nConnection: Upgrade");
  if (head.body == BodyKind::kChunked) {
    text->Append("\r\nTransfer-Encoding: chunked");
  } else if (head.body == BodyKind::kLength) {
    text->Append("\r\nContent-Length: ");
    text->AppendNumber(head.content_length);
  }
  text->Append("\r\nX-Forwarded-Prefix: ");
  if (outer_prefix != nullptr) {
    Emit(*text, &from, out);
    out->Add(outer_prefix->Value(bytes));
  }
  text->Append("/");
  text->Append(with.app);
  absl::string_view host = with.authority;
  if (head.form == TargetForm::kAbsolute) {
    host = {bytes + head.authority, head.authority_size};
  } else if (head.host >= 0) {
    host = section.fields[head.host].Value(bytes);
  }
  if (outer_host == nullptr) {
    text->Append("\r\nX-Forwarded-Host: ");
    Emit(*text, &from, out);
    out->Add(host);
  }
  text->Append("\r\n\r\n");
  Emit(*text, &from, out);
}

void RewriteResponse(const ResponseHead& head, char* bytes,
                     const ResponseRewrite& with, TextBuffer* text,
                     IovecQueue* out) {
  text->Clear();
  const char* from = text->position();
  bytes[7] = '1';
  const FieldSection& section = head.section;
  const uint32_t fields_at = section.count > 0
                                 ? section.fields[0].line
                                 : static_cast<uint32_t>(head.size - 2);
  if (bytes[12] == ' ') {
    out->Add(bytes, fields_at);
  } else {
    text->Append("HTTP/1.1 ");
    text->AppendNumber(static_cast<uint64_t>(head.status));
    text->Append(" \r\n");
    Emit(*text, &from, out);
  }
  for (int i = 0; i < section.count; ++i) {
    const Field& field = section.fields[i];
    switch (field.id) {
      case FieldId::kConnection:
      case FieldId::kKeepAlive:
      case FieldId::kProxyConnection:
      case FieldId::kTe:
      case FieldId::kTransferEncoding:
      case FieldId::kRequestId:
      case FieldId::kAlias:
        continue;
      case FieldId::kForwarded:
        // What the edge says of itself is not an origin's to say.
        if (EqualsIgnoreCase(field.Name(bytes).substr(0, 11), "x-mycelium-"))
          continue;
        if (IsHopByHop(head, field, bytes)) continue;
        break;
      case FieldId::kContentLength:
        if (!with.keep_content_length) continue;
        if (IsCanonicalNumber(field, bytes)) break;
        // Leading zeros or white space behind it are valid, and still a reason
        // for others to read it in another way.
        text->Append("Content-Length: ");
        text->AppendNumber(head.content_length);
        text->Append("\r\n");
        Emit(*text, &from, out);
        continue;
      case FieldId::kDate:
        // Cut because Connection names it, it would be missing.
        break;
      case FieldId::kUpgrade:
        // 426 has to say what to upgrade to (RFC 9110, 15.5.22).
        if (with.upgraded || head.status == 426) break;
        continue;
      default:
        if (IsHopByHop(head, field, bytes)) continue;
        break;
    }
    out->Add(bytes + field.line, static_cast<size_t>(field.end - field.line));
  }
  if (head.status < 200 && !with.upgraded) {
    out->Add("\r\n");
    return;
  }
  text->Append(head.minor_version == 0 ? "Via: 1.0 " : "Via: 1.1 ");
  text->Append(with.via);
  text->Append("\r\nX-Request-Id: ");
  text->Append(with.request_id);
  if (!head.has_date) {
    text->Append("\r\nDate: ");
    text->Append(with.date);
  }
  if (with.body == BodyKind::kChunked)
    text->Append("\r\nTransfer-Encoding: chunked");
  if (with.upgraded) {
    text->Append("\r\nConnection: Upgrade");
  } else if (head.status == 426) {
    text->Append(with.close ? "\r\nConnection: Upgrade, close"
                            : "\r\nConnection: Upgrade");
  } else if (with.close) {
    text->Append("\r\nConnection: close");
  }
  text->Append("\r\n\r\n");
  Emit(*text, &from, out);
}

void RewriteTrailers(const FieldSection& section, const char* bytes,
                     IovecQueue* out) {
  for (int i = 0; i < section.count; ++i) {
    const Field& field = section.fields[i];
    if (field.id != FieldId::kOther) continue;
    // Fields that must be known before the body (RFC 9110, 6.5.1).
    const absl::string_view name = field.Name(bytes);
    if (EqualsIgnoreCase(name, "authorization") ||
        EqualsIgnoreCase(name, "proxy-authorization") ||
        EqualsIgnoreCase(name, "www-authenticate") ||
        EqualsIgnoreCase(name, "proxy-authenticate") ||
        EqualsIgnoreCase(name, "cookie") ||
        EqualsIgnoreCase(name, "set-cookie") ||
        EqualsIgnoreCase(name, "content-encoding") ||
        EqualsIgnoreCase(name, "content-type") ||
        EqualsIgnoreCase(name, "content-range") ||
        EqualsIgnoreCase(name, "cache-control") ||
        EqualsIgnoreCase(name, "location")) {
      continue;
    }
    out->Add(bytes + field.line, static_cast<size_t>(field.end - field.line));
  }
}

bool MayForwardUpgrade(const RequestHead& head, const char* bytes) {
  if (!head.upgrade) return false;
  bool allowed = true;
  int protocols = 0;
  for (int i = 0; i < head.section.count; ++i) {
    const Field& field = head.section.fields[i];
    if (field.id != FieldId::kUpgrade) continue;
    ForEachElement(field.Value(bytes), [&](absl::string_view protocol) {
      ++protocols;
      if (EqualsIgnoreCase(protocol.substr(0, 3), "h2c") ||
          EqualsIgnoreCase(protocol.substr(0, 4), "http") ||
          EqualsIgnoreCase(protocol.substr(0, 3), "tls")) {
        allowed = false;
      }
    });
  }
  return allowed && protocols > 0;
}

bool IsUpgradeAskedFor(const RequestHead& request, const char* request_bytes,
                       const ResponseHead& response,
                       const char* response_bytes) {
  bool all = true;
  int named = 0;
  for (int i = 0; i < response.section.count; ++i) {
    const Field& answer = response.section.fields[i];
    if (answer.id != FieldId::kUpgrade) continue;
    ForEachElement(
        answer.Value(response_bytes), [&](absl::string_view protocol) {
          ++named;
          bool asked = false;
          for (int j = 0; j < request.section.count; ++j) {
            const Field& question = request.section.fields[j];
            if (question.id != FieldId::kUpgrade) continue;
            ForEachElement(
                question.Value(request_bytes), [&](absl::string_view wanted) {
                  asked = asked || EqualsIgnoreCase(wanted, protocol);
                });
          }
          all = all && asked;
        });
  }
  return all && named > 0;
}

bool IsValidTraceparent(absl::string_view value) {
  // version "-" trace-id "-" parent-id "-" flags
  if (value.size() < 55 || value[2] != '-' || value[35] != '-' ||
      value[52] != '-') {
    return false;
  }
  const absl::string_view version = value.substr(0, 2);
  const absl::string_view trace = value.substr(3, 32);
  const absl::string_view parent = value.substr(36, 16);
  const absl::string_view flags = value.substr(53, 2);
  if (!IsLowerHex(version) || !IsLowerHex(trace) || !IsLowerHex(parent) ||
      !IsLowerHex(flags)) {
    return false;
  }
  if (version == "ff" || IsAllZero(trace) || IsAllZero(parent)) return false;
  if (version == "00") return value.size() == 55;
  return value.size() == 55 || value[55] == '-';
}

}  // namespace mycelium::edge
