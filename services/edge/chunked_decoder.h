#ifndef SERVICES_EDGE_CHUNKED_DECODER_H_
#define SERVICES_EDGE_CHUNKED_DECODER_H_

#include <cstddef>
#include <cstdint>

#include "absl/strings/string_view.h"
#include "services/edge/http_parser.h"

namespace mycelium::edge {

// Decodes the chunked transfer coding (RFC 9112, 7.1), strictly: no bare LF,
// no white space around sizes, sizes below 2^63, extensions by the grammar and
// bounded. A state machine over bytes that may be split anywhere; it does no
// I/O and allocates nothing.
class ChunkedDecoder {
 public:
  // Extension bytes that one message may carry in all.
  static constexpr uint32_t kMaxExtensionBytes = 4096;

  enum class Step : uint8_t {
    kNeedMore,    // All of `bytes` is consumed; the body goes on.
    kChunkBegin,  // The line before a chunk of chunk_size() bytes was read.
    kData,        // `data` is a piece of the body.
    kChunkEnd,    // The CRLF behind a chunk was read.
    kTrailer,     // The last chunk was read; the trailer section begins.
    kError,
  };

  struct Result {
    Step step = Step::kNeedMore;
    // Bytes of the input that are done with, `data` included.
    size_t consumed = 0;
    absl::string_view data;
  };

  void Reset() { *this = ChunkedDecoder(); }

  // Reads on. `bytes` begins where the previous call's `consumed` ended. After
  // kTrailer or kError it must not be called again.
  Result Next(absl::string_view bytes);

  // Of the chunk that has begun: what is left of it.
  uint64_t chunk_size() const { return size_; }
  HttpError error() const { return error_; }

 private:
  enum class State : uint8_t {
    kSize,        // At least one digit is still missing.
    kSizeDigits,  // More digits, ';', BWS or CR.
    kBwsBeforeSemicolon,
    kExtensionName,  // After ';', before the first byte of the name.
    kExtensionNameRest,
    kBwsBeforeEquals,  // After a name: '=', ';' or (without space) CR.
    kExtensionValue,   // After '='.
    kExtensionToken,
    kExtensionQuoted,
    kExtensionEscape,
    kExtensionEnd,  // After a value: ';' or CR, or BWS before ';'.
    kSizeLf,
    kData,
    kDataCr,
    kDataLf,
  };

  bool NextSizeByte(char c);

  State state_ = State::kSize;
  HttpError error_ = HttpError::kNone;
  uint8_t digits_ = 0;
  bool bws_ = false;  // White space was seen, so CR may not follow.
  uint32_t extension_bytes_ = 0;
  uint64_t size_ = 0;  // Of the chunk; then, what is left of it.
};

}  // namespace mycelium::edge

#endif  // SERVICES_EDGE_CHUNKED_DECODER_H_
