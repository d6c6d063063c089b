#include "services/edge/chunked_decoder.h"

namespace mycelium::edge {
namespace {

int HexValue(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

bool IsTokenByte(char c) { return IsToken({&c, 1}); }

bool IsSpace(char c) { return c == ' ' || c == '\t'; }

}  // namespace

ChunkedDecoder::Result ChunkedDecoder::Next(absl::string_view bytes) {
  size_t at = 0;
  while (at < bytes.size()) {
    const char c = bytes[at];
    switch (state_) {
      case State::kData: {
        const size_t left = bytes.size() - at;
        const size_t take = left < size_ ? left : static_cast<size_t>(size_);
        size_ -= take;
        if (size_ == 0) state_ = State::kDataCr;
        return {Step::kData, at + take, bytes.substr(at, take)};
      }
      case State::kDataCr:
        if (c != '\r') {
          error_ = HttpError::kBadChunkEnd;
          return {Step::kError, at, {}};
        }
        state_ = State::kDataLf;
        break;
      case State::kDataLf:
        if (c != '\n') {
          error_ = HttpError::kBadChunkEnd;
          return {Step::kError, at, {}};
        }
        state_ = State::kSize;
        digits_ = 0;
        size_ = 0;
        return {Step::kChunkEnd, at + 1, {}};
      case State::kSizeLf:
        if (c != '\n') {
          error_ = HttpError::kBadChunkSize;
          return {Step::kError, at, {}};
        }
        if (size_ == 0) return {Step::kTrailer, at + 1, {}};
        state_ = State::kData;
        return {Step::kChunkBegin, at + 1, {}};
      default:
        if (!NextSizeByte(c)) return {Step::kError, at, {}};
        break;
    }
    ++at;
  }
  return {Step::kNeedMore, at, {}};
}

bool ChunkedDecoder::NextSizeByte(char c) {
  if (state_ == State::kSize || state_ == State::kSizeDigits) {
    const int digit = HexValue(c);
    if (digit >= 0) {
      // 16 digits are 64 bits; the sign bit stays free. Leading zeros count,
      // so that they cannot go on for ever.
      if (++digits_ > 16 || size_ > (uint64_t{INT64_MAX} >> 4)) {
        error_ = HttpError::kBadChunkSize;
        return false;
      }
      size_ = size_ << 4 | static_cast<uint64_t>(digit);
      state_ = State::kSizeDigits;
      return true;
    }
    if (state_ == State::kSizeDigits) {
      if (c == '\r') {
        state_ = State::kSizeLf;
        return true;
      }
      if (c == ';') {
        state_ = State::kExtensionName;
        return true;
      }
      if (IsSpace(c)) {
        state_ = State::kBwsBeforeSemicolon;
        return true;
      }
    }
    error_ = HttpError::kBadChunkSize;
    return false;
  }

  error_ = HttpError::kBadChunkExtension;
  if (++extension_bytes_ > kMaxExtensionBytes) return false;
  switch (state_) {
    case State::kBwsBeforeSemicolon:
      if (c == ';') {
        state_ = State::kExtensionName;
      } else if (!IsSpace(c)) {
        error_ = HttpError::kBadChunkSize;
        return false;
      }
      break;
    case State::kExtensionName:
      if (IsTokenByte(c)) {
        state_ = State::kExtensionNameRest;
      } else if (!IsSpace(c)) {
        return false;
      }
      break;
    case State::kExtensionNameRest:
      if (IsTokenByte(c)) break;
      if (c == '=') {
        state_ = State::kExtensionValue;
      } else if (c == ';') {
        state_ = State::kExtensionName;
      } else if (c == '\r') {
        state_ = State::kSizeLf;
      } else if (IsSpace(c)) {
        state_ = State::kBwsBeforeEquals;
      } else {
        return false;
      }
      break;
    case State::kBwsBeforeEquals:
      if (c == '=') {
        state_ = State::kExtensionValue;
      } else if (c == ';') {
        state_ = State::kExtensionName;
      } else if (!IsSpace(c)) {
        return false;
      }
      break;
    case State::kExtensionValue:
      if (c == '"') {
        state_ = State::kExtensionQuoted;
      } else if (IsTokenByte(c)) {
        state_ = State::kExtensionToken;
      } else if (!IsSpace(c)) {
        return false;
      }
      break;
    case State::kExtensionToken:
      if (IsTokenByte(c)) break;
      [[fallthrough]];
    case State::kExtensionEnd:
      if (c == ';') {
        bws_ = false;
        state_ = State::kExtensionName;
      } else if (c == '\r' && !bws_) {
        state_ = State::kSizeLf;
      } else if (IsSpace(c)) {
        bws_ = true;
        state_ = State::kExtensionEnd;
      } else {
        return false;
      }
      break;
    case State::kExtensionQuoted: {
      const auto byte = static_cast<unsigned char>(c);
      if (c == '"') {
        bws_ = false;
        state_ = State::kExtensionEnd;
      } else if (c == '\\') {
        state_ = State::kExtensionEscape;
      } else if ((byte < 0x20 && c != '\t') || byte == 0x7f) {
        return false;
      }
      break;
    }
    case State::kExtensionEscape: {
      const auto byte = static_cast<unsigned char>(c);
      if ((byte < 0x20 && c != '\t') || byte == 0x7f) return false;
      state_ = State::kExtensionQuoted;
      break;
    }
    default:
      return false;
  }
  error_ = HttpError::kNone;
  return true;
}

}  // namespace mycelium::edge
