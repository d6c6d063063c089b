#ifndef SERVICES_EDGE_BODY_READER_H_
#define SERVICES_EDGE_BODY_READER_H_

#include <array>
#include <cstddef>
#include <cstdint>

#include "services/edge/chunked_decoder.h"
#include "services/edge/http_parser.h"
#include "services/edge/iovec_queue.h"

namespace mycelium::edge {

// Finds the end of one message body, whichever way it is framed, and takes the
// framing off. No I/O, no allocation. Not thread-safe.
class BodyReader {
 public:
  static constexpr uint32_t kMaxTrailerBytes = 8 * 1024;

  enum class Step : uint8_t { kNeedMore, kPiece, kError };

  struct Result {
    Step step = Step::kNeedMore;
    size_t data_size = 0;  // Body bytes, moved to the front of the input.
    size_t consumed = 0;   // Input bytes that are done with, data included.
    bool last = false;     // The body ends with this piece.
  };

  void Reset(BodyKind kind, uint64_t content_length);

  // Reads what is in [data, data + size) and may move it. With kNeedMore,
  // `consumed` bytes are framing that carried no data. Must not be called
  // again once done().
  Result Read(char* data, size_t size);

  BodyKind kind() const { return kind_; }
  bool done() const { return done_; }
  // Bytes of body still to come, for kLength.
  uint64_t left() const { return left_; }
  HttpError error() const { return error_; }
  // After the last piece of a chunked body: its trailer section, whose offsets
  // count from `trailer_bytes`, which is part of the input of that Read.
  const FieldSection& trailers() const { return trailers_; }
  const char* trailer_bytes() const { return trailer_bytes_; }

 private:
  BodyKind kind_ = BodyKind::kNone;
  bool done_ = true;
  bool in_trailers_ = false;
  HttpError error_ = HttpError::kNone;
  uint64_t left_ = 0;
  const char* trailer_bytes_ = nullptr;
  ChunkedDecoder decoder_;
  FieldSection trailers_;
};

// Room for the line before a chunk.
using ChunkLine = std::array<char, 20>;

// Queues a piece of a body: as it is, or (for kChunked) as one chunk, the last
// one with the last-chunk and `trailers` (of `reader`) behind it. `line` must
// live until the queue is written.
void QueuePiece(BodyKind kind, const char* data, size_t size, bool last,
                const BodyReader& reader, ChunkLine* line, IovecQueue* out);

}  // namespace mycelium::edge

#endif  // SERVICES_EDGE_BODY_READER_H_
