#include "services/repo/wire.h"

namespace mycelium::repo {
namespace {

constexpr int kLengthDelimited = 2;

constexpr char Tag(int field, int wire_type) {
  return static_cast<char>(field << 3 | wire_type);
}

void AppendVarint(uint64_t value, std::string& out) {
  for (; value >= 0x80; value >>= 7) {
    out.push_back(static_cast<char>(value | 0x80));
  }
  out.push_back(static_cast<char>(value));
}

}  // namespace

std::optional<std::vector<absl::string_view>> ParseChunk(
    const std::vector<absl::string_view>& pieces) {
  // A tag and a length of up to 10 bytes, which may straddle pieces.
  constexpr size_t kMaxPrefixBytes = 11;
  size_t piece = 0;
  size_t position = 0;
  size_t total = 0;
  for (const absl::string_view p : pieces) total += p.size();

  uint64_t length = 0;
  size_t prefix_bytes = 0;
  bool complete = false;
  while (!complete) {
    while (piece < pieces.size() && position == pieces[piece].size()) {
      ++piece;
      position = 0;
    }
    if (piece == pieces.size() || prefix_bytes == kMaxPrefixBytes) {
      return std::nullopt;
    }
    const auto byte = static_cast<unsigned char>(pieces[piece][position++]);
    if (prefix_bytes == 0) {
      if (byte != Tag(2, kLengthDelimited)) return std::nullopt;
    } else {
      const size_t shift = 7 * (prefix_bytes - 1);
      length |= uint64_t{byte & 0x7fU} << shift;
      complete = (byte & 0x80) == 0;
    }
    ++prefix_bytes;
  }
  if (length != total - prefix_bytes) return std::nullopt;

  std::vector<absl::string_view> chunk;
  chunk.reserve(pieces.size() - piece);
  if (position < pieces[piece].size()) {
    chunk.push_back(pieces[piece].substr(position));
  }
  for (++piece; piece < pieces.size(); ++piece) {
    if (!pieces[piece].empty()) chunk.push_back(pieces[piece]);
  }
  return chunk;
}

std::string GetResponsePrefix(int64_t offset, int64_t size_bytes,
                              size_t chunk_bytes) {
  std::string prefix;
  if (offset != 0) {
    prefix.push_back(Tag(1, 0));
    AppendVarint(static_cast<uint64_t>(offset), prefix);
  }
  if (size_bytes != 0) {
    prefix.push_back(Tag(3, 0));
    AppendVarint(static_cast<uint64_t>(size_bytes), prefix);
  }
  if (chunk_bytes != 0) {
    prefix.push_back(Tag(2, kLengthDelimited));
    AppendVarint(chunk_bytes, prefix);
  }
  return prefix;
}

}  // namespace mycelium::repo
