#include "services/edge/body_reader.h"

#include <algorithm>
#include <charconv>
#include <cstring>

#include "services/edge/head_rewriter.h"

namespace mycelium::edge {
namespace {

// Writes the line before a chunk; returns its end.
char* WriteChunkLine(uint64_t size, char* out, char* limit) {
  char* end = std::to_chars(out, limit, size, 16).ptr;
  *end++ = '\r';
  *end++ = '\n';
  return end;
}

}  // namespace

void BodyReader::Reset(BodyKind kind, uint64_t content_length, bool keep_chunks,
                       bool keep_trailers) {
  kind_ = kind;
  keep_chunks_ = keep_chunks;
  keep_trailers_ = keep_trailers;
  left_ = content_length;
  done_ = kind == BodyKind::kNone ||
          (kind == BodyKind::kLength && content_length == 0);
  in_trailers_ = false;
  error_ = HttpError::kNone;
  seen_ = 0;
  trailer_bytes_ = nullptr;
  decoder_.Reset();
  trailers_.Reset(0);
}

BodyReader::Result BodyReader::Read(char* data, size_t size) {
  Result result;
  if (size == 0) return result;
  if (kind_ == BodyKind::kUntilClose)
    return {Step::kPiece, size, size, size, false};
  if (kind_ == BodyKind::kLength) {
    const auto take = static_cast<size_t>(std::min<uint64_t>(left_, size));
    left_ -= take;
    done_ = left_ == 0;
    return {Step::kPiece, take, take, take, done_};
  }
  if (!in_trailers_) ReadChunks(data, size, &result);
  if (result.step == Step::kError) return result;
  if (in_trailers_) {
    trailer_bytes_ = data + result.consumed;
    switch (trailers_.Parse({trailer_bytes_, size - result.consumed},
                            kMaxTrailerBytes)) {
      case ParseStatus::kError:
        error_ = trailers_.error;
        result.step = Step::kError;
        return result;
      case ParseStatus::kIncomplete:
        break;
      case ParseStatus::kDone:
        result.consumed += trailers_.end;
        result.last = true;
        done_ = true;
        break;
    }
  }
  if (result.out_size > 0 || result.last) result.step = Step::kPiece;
  return result;
}

void BodyReader::ReadChunks(char* data, size_t size, Result* result) {
  size_t at = seen_;
  char* out = data;
  // What is written for a unit of framing is never longer than the unit, so
  // `out` cannot overtake what is still to be read.
  while (at < size && !in_trailers_) {
    const ChunkedDecoder::Result next = decoder_.Next({data + at, size - at});
    at += next.consumed;
    switch (next.step) {
      case ChunkedDecoder::Step::kError:
        error_ = decoder_.error();
        result->step = Step::kError;
        return;
      case ChunkedDecoder::Step::kNeedMore:
        continue;
      case ChunkedDecoder::Step::kChunkBegin:
        if (keep_chunks_)
          out = WriteChunkLine(decoder_.chunk_size(), out, data + size);
        break;
      case ChunkedDecoder::Step::kData:
        if (next.data.data() != out)
          std::memmove(out, next.data.data(), next.data.size());
        out += next.data.size();
        result->body_size += next.data.size();
        break;
      case ChunkedDecoder::Step::kChunkEnd:
        if (keep_chunks_) {
          *out++ = '\r';
          *out++ = '\n';
        }
        break;
      case ChunkedDecoder::Step::kTrailer:
        if (keep_chunks_) out = WriteChunkLine(0, out, data + size);
        in_trailers_ = true;
        break;
    }
    result->consumed = at;
  }
  seen_ = at - result->consumed;
  result->out_size = static_cast<size_t>(out - data);
}

void QueuePiece(BodyKind out_kind, const char* data, size_t size, bool last,
                const BodyReader& reader, ChunkLine* line, IovecQueue* out) {
  if (out_kind != BodyKind::kChunked) {
    out->Add(data, size);
    return;
  }
  if (reader.kind() == BodyKind::kChunked) {
    out->Add(data, size);
    if (!last) return;
    if (reader.keep_trailers())
      RewriteTrailers(reader.trailers(), reader.trailer_bytes(), out);
    out->Add("\r\n");
    return;
  }
  if (size > 0) {
    const char* const end =
        WriteChunkLine(size, line->data(), line->data() + line->size());
    out->Add(line->data(), static_cast<size_t>(end - line->data()));
    out->Add(data, size);
    out->Add("\r\n");
  }
  if (last) out->Add("0\r\n\r\n");
}

}  // namespace mycelium::edge
