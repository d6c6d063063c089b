#ifndef SERVICES_EDGE_BODY_READER_H_
#define SERVICES_EDGE_BODY_READER_H_

#include <array>
#include <cstddef>
#include <cstdint>

#include "services/edge/chunked_decoder.h"
#include "services/edge/http_parser.h"
#include "services/edge/iovec_queue.h"

namespace mycelium::edge {

// Finds the end of one message body, whichever way it is framed, and makes of
// it, in place, what is to be sent on. No I/O, no allocation. Not thread-safe.
//
// A chunked body keeps its chunks, so that what comes as one goes out as one,
// but their lines are written anew: no extensions, no leading zeros. For
// receivers that know no chunks they are taken off.
class BodyReader {
 public:
  static constexpr uint32_t kMaxTrailerBytes = 8 * 1024;

  enum class Step : uint8_t { kNeedMore, kPiece, kError };

  struct Result {
    Step step = Step::kNeedMore;
    // Bytes to send on, now at the front of the input.
    size_t out_size = 0;
    // Input bytes that are done with; those behind stay where they are.
    size_t consumed = 0;
    // Bytes of the body itself among them.
    size_t body_size = 0;
    bool last = false;  // The body ends with this piece.
  };

  // `keep_chunks` and `keep_trailers` are about kChunked only.
  void Reset(BodyKind kind, uint64_t content_length, bool keep_chunks = true,
             bool keep_trailers = true);

  // Reads what is in [data, data + size), which begins with what the call
  // before did not consume, and may move it. Must not be called once done().
  Result Read(char* data, size_t size);

  // Of kLength: what is left, and that `size` bytes of it need not be read,
  // because they go on by another way.
  uint64_t left() const { return left_; }
  void Skip(uint64_t size) {
    left_ -= size;
    done_ = left_ == 0;
  }

  BodyKind kind() const { return kind_; }
  bool done() const { return done_; }
  HttpError error() const { return error_; }
  // After the last piece of a chunked body: its trailer section, whose offsets
  // count from `trailer_bytes`, which is part of the input of that Read.
  const FieldSection& trailers() const { return trailers_; }
  const char* trailer_bytes() const { return trailer_bytes_; }
  // Whether they may be sent on. Where the head's Connection names fields, any
  // trailer may be one that ends here (RFC 9110, 7.6.1), and the head may be
  // gone by now; to leave trailers out is always allowed.
  bool keep_trailers() const { return keep_trailers_; }

 private:
  void ReadChunks(char* data, size_t size, Result* result);

  BodyKind kind_ = BodyKind::kNone;
  bool keep_chunks_ = true;
  bool keep_trailers_ = true;
  bool done_ = true;
  bool in_trailers_ = false;
  HttpError error_ = HttpError::kNone;
  uint64_t left_ = 0;
  // Bytes at the front of the next input that the decoder has seen: the
  // beginning of a line before a chunk, which is only replaced as a whole.
  size_t seen_ = 0;
  const char* trailer_bytes_ = nullptr;
  ChunkedDecoder decoder_;
  FieldSection trailers_;
};

// Room for the line before a chunk.
using ChunkLine = std::array<char, 20>;

// Queues a piece that `reader` made, so that its receiver reads a body of the
// kind `out_kind`: kChunked, or any other for one without chunks. `line` must
// live until the queue is written. A piece may be empty if it is the last.
void QueuePiece(BodyKind out_kind, const char* data, size_t size, bool last,
                const BodyReader& reader, ChunkLine* line, IovecQueue* out);

}  // namespace mycelium::edge

#endif  // SERVICES_EDGE_BODY_READER_H_
