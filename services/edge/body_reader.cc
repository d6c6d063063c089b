#include "services/edge/body_reader.h"

#include <algorithm>
#include <charconv>

#include "services/edge/head_rewriter.h"

namespace mycelium::edge {

void BodyReader::Reset(BodyKind kind, uint64_t content_length) {
  kind_ = kind;
  left_ = content_length;
  done_ = kind == BodyKind::kNone ||
          (kind == BodyKind::kLength && content_length == 0);
  in_trailers_ = false;
  error_ = HttpError::kNone;
  trailer_bytes_ = nullptr;
  decoder_.Reset();
  trailers_.Reset(0);
}

BodyReader::Result BodyReader::Read(char* data, size_t size) {
  Result result;
  if (kind_ == BodyKind::kUntilClose) {
    if (size == 0) return result;
    return {Step::kPiece, size, size, false};
  }
  if (kind_ == BodyKind::kLength) {
    if (size == 0) return result;
    const auto take = static_cast<size_t>(std::min<uint64_t>(left_, size));
    left_ -= take;
    done_ = left_ == 0;
    return {Step::kPiece, take, take, done_};
  }
  if (!in_trailers_) {
    const Dechunked dechunked = DechunkInPlace(&decoder_, data, size);
    result.data_size = dechunked.data_size;
    result.consumed = dechunked.consumed;
    if (dechunked.error) {
      error_ = decoder_.error();
      result.step = Step::kError;
      return result;
    }
    in_trailers_ = dechunked.trailer;
  }
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
  if (result.data_size > 0 || result.last) result.step = Step::kPiece;
  return result;
}

void QueuePiece(BodyKind kind, const char* data, size_t size, bool last,
                const BodyReader& reader, ChunkLine* line, IovecQueue* out) {
  if (kind != BodyKind::kChunked) {
    out->Add(data, size);
    return;
  }
  if (size > 0) {
    char* end =
        std::to_chars(line->data(), line->data() + line->size(), size, 16).ptr;
    *end++ = '\r';
    *end++ = '\n';
    out->Add(line->data(), static_cast<size_t>(end - line->data()));
    out->Add(data, size);
  }
  if (!last) {
    out->Add("\r\n");
    return;
  }
  if (reader.kind() != BodyKind::kChunked || reader.trailers().count == 0) {
    out->Add(size > 0 ? absl::string_view("\r\n0\r\n\r\n")
                      : absl::string_view("0\r\n\r\n"));
    return;
  }
  out->Add(size > 0 ? absl::string_view("\r\n0\r\n")
                    : absl::string_view("0\r\n"));
  RewriteTrailers(reader.trailers(), reader.trailer_bytes(), out);
  out->Add("\r\n");
}

}  // namespace mycelium::edge
