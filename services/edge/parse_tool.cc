// Reads frames from standard input and prints, for each, what the edge's
// parser makes of it, as one line of JSON: for tests that compare it with
// another parser.
//
// A frame is a byte that says what the bytes are, 'Q' requests, 'R' responses
// to GET or 'H' responses to HEAD; a seed that they are cut into pieces by, and
// their number, both 32 bits, the lowest byte first; and the bytes.

#include <array>
#include <cstdint>
#include <cstdio>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "services/edge/message_stream.h"

namespace mycelium::edge {
namespace {

constexpr uint32_t kMaxFrameBytes = 16 * 1024 * 1024;

// Bytes as a JSON string, one code point of Latin-1 each.
void AppendJson(absl::string_view bytes, std::string* out) {
  out->push_back('"');
  for (const char c : bytes) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte >= 0x20 && byte < 0x7f && c != '"' && c != '\\') {
      out->push_back(c);
    } else {
      constexpr absl::string_view kDigits = "0123456789abcdef";
      absl::StrAppend(out, "\\u00");
      out->push_back(kDigits[byte >> 4]);
      out->push_back(kDigits[byte & 15]);
    }
  }
  out->push_back('"');
}

void AppendFields(
    const std::vector<std::pair<std::string, std::string>>& fields,
    std::string* out) {
  out->push_back('[');
  for (size_t i = 0; i < fields.size(); ++i) {
    if (i > 0) out->push_back(',');
    AppendJson(fields[i].first, out);
    out->push_back(',');
    AppendJson(fields[i].second, out);
  }
  out->push_back(']');
}

absl::string_view NameOfEnd(StreamEnd end) {
  switch (end) {
    case StreamEnd::kClean:
      return "clean";
    case StreamEnd::kIncomplete:
      return "incomplete";
    case StreamEnd::kError:
      return "error";
    case StreamEnd::kClose:
      return "close";
    case StreamEnd::kUpgrade:
      return "upgrade";
  }
  return "";
}

std::string ToJson(const StreamResult& result) {
  std::string out = "{\"messages\":[";
  bool first = true;
  for (const StreamMessage& message : result.messages) {
    if (!first) out.push_back(',');
    first = false;
    absl::StrAppend(&out, "{\"end\":", message.end,
                    ",\"status\":", message.status, ",\"method\":");
    AppendJson(message.method, &out);
    absl::StrAppend(&out, ",\"target\":");
    AppendJson(message.target, &out);
    absl::StrAppend(&out, ",\"fields\":");
    AppendFields(message.fields, &out);
    absl::StrAppend(&out, ",\"trailers\":");
    AppendFields(message.trailers, &out);
    absl::StrAppend(&out, ",\"body\":");
    AppendJson(message.body, &out);
    absl::StrAppend(&out, ",\"forwarded\":");
    AppendJson(message.forwarded, &out);
    out.push_back('}');
  }
  absl::StrAppend(&out, "],\"verdict\":\"", NameOfEnd(result.end),
                  "\",\"error\":\"", NameOf(result.error),
                  "\",\"unfinished\":");
  AppendJson(result.unfinished, &out);
  absl::StrAppend(&out, "}\n");
  return out;
}

uint32_t ReadLittleEndian(const unsigned char* bytes) {
  return uint32_t{bytes[0]} | uint32_t{bytes[1]} << 8 |
         uint32_t{bytes[2]} << 16 | uint32_t{bytes[3]} << 24;
}

int Main() {
  std::array<unsigned char, 9> header;
  std::string bytes;
  while (fread(header.data(), header.size(), 1, stdin) == 1) {
    const uint32_t seed = ReadLittleEndian(&header[1]);
    const uint32_t size = ReadLittleEndian(&header[5]);
    StreamKind kind = StreamKind::kRequests;
    if (header[0] == 'R') {
      kind = StreamKind::kResponses;
    } else if (header[0] == 'H') {
      kind = StreamKind::kHeadResponses;
    } else if (header[0] != 'Q') {
      fprintf(stderr, "parse_tool: '%c' is no kind of messages\n", header[0]);
      return 2;
    }
    if (size > kMaxFrameBytes) {
      fprintf(stderr, "parse_tool: a frame of %u bytes is too long\n", size);
      return 2;
    }
    bytes.resize(size);
    if (size > 0 && fread(bytes.data(), size, 1, stdin) != 1) {
      fprintf(stderr, "parse_tool: the last frame is cut short\n");
      return 2;
    }
    std::minstd_rand random(seed);
    const uint32_t widest = std::array<uint32_t, 4>{1, 7, 60, 4000}[seed % 4];
    const std::string json =
        ToJson(ReadStream(kind, bytes, [&] { return 1 + random() % widest; }));
    if (fwrite(json.data(), json.size(), 1, stdout) != 1) return 1;
    fflush(stdout);
  }
  return 0;
}

}  // namespace
}  // namespace mycelium::edge

int main() { return mycelium::edge::Main(); }
