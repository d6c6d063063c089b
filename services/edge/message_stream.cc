#include "services/edge/message_stream.h"

#include <algorithm>
#include <memory>

#include "services/edge/body_reader.h"
#include "services/edge/head_rewriter.h"
#include "services/edge/iovec_queue.h"
#include "services/edge/target.h"

namespace mycelium::edge {
namespace {

using Fields = std::vector<std::pair<std::string, std::string>>;

void AppendTo(const IovecQueue& queue, std::string* out) {
  for (int i = 0; i < queue.count(); ++i) {
    out->append(static_cast<const char*>(queue.data()[i].iov_base),
                queue.data()[i].iov_len);
  }
}

Fields Collect(const FieldSection& section, const char* bytes) {
  Fields fields;
  for (int i = 0; i < section.count; ++i) {
    const absl::string_view name = section.fields[i].Name(bytes);
    const absl::string_view value = section.fields[i].Value(bytes);
    fields.emplace_back(std::string(name.data(), name.size()),
                        std::string(value.data(), value.size()));
  }
  return fields;
}

class Reader {
 public:
  explicit Reader(StreamKind kind)
      : kind_(kind),
        request_(std::make_unique<RequestHead>()),
        response_(std::make_unique<ResponseHead>()),
        body_(std::make_unique<BodyReader>()) {
    Begin();
  }

  // Takes what it can of the bytes so far; false once it is over.
  bool Feed(absl::string_view piece) {
    buffer_.append(piece.data(), piece.size());
    while (!buffer_.empty()) {
      if (!in_body_) {
        const ParseStatus status =
            kind_ == StreamKind::kRequests
                ? request_->Parse(buffer_)
                : response_->Parse(buffer_, kind_ == StreamKind::kResponses
                                                ? Method::kGet
                                                : Method::kHead);
        if (status == ParseStatus::kIncomplete) return true;
        if (status == ParseStatus::kError) {
          return Fail(kind_ == StreamKind::kRequests ? request_->error
                                                     : response_->error);
        }
        TakeHead();
        if (!body_->done()) continue;
      }
      if (!body_->done()) {
        raw_body_.append(buffer_, seen_, buffer_.size() - seen_);
        const BodyReader::Result result =
            body_->Read(buffer_.data(), buffer_.size());
        if (result.step == BodyReader::Step::kError)
          return Fail(body_->error());
        if (result.step == BodyReader::Step::kPiece) {
          ChunkLine line;
          IovecQueue queue;
          QueuePiece(message_.kind, buffer_.data(), result.out_size,
                     result.last, *body_, &line, &queue);
          if (forward_) AppendTo(queue, &message_.forwarded);
          if (result.last && message_.kind == BodyKind::kChunked) {
            message_.trailers =
                Collect(body_->trailers(), body_->trailer_bytes());
          }
        }
        buffer_.erase(0, result.consumed);
        at_ += result.consumed;
        seen_ = buffer_.size();
        if (!body_->done()) return true;
        raw_body_.resize(raw_body_.size() - buffer_.size());
      }
      if (!Complete()) return false;
    }
    return true;
  }

  StreamResult Finish() {
    if (result_.end == StreamEnd::kClean && (in_body_ || !buffer_.empty())) {
      if (in_body_ && message_.kind == BodyKind::kUntilClose) {
        ChunkLine line;
        IovecQueue queue;
        QueuePiece(BodyKind::kUntilClose, nullptr, 0, true, *body_, &line,
                   &queue);
        Complete();
      } else {
        result_.end = StreamEnd::kIncomplete;
        result_.unfinished = message_.forwarded;
      }
    }
    return std::move(result_);
  }

 private:
  void Begin() {
    request_->Reset();
    response_->Reset();
    message_ = {};
    message_.begin = at_;
    raw_body_.clear();
    seen_ = 0;
    in_body_ = false;
    forward_ = true;
  }

  bool Fail(HttpError error) {
    result_.end = StreamEnd::kError;
    result_.error = error;
    result_.unfinished = message_.forwarded;
    return false;
  }

  void TakeHead() {
    TextBuffer text;
    IovecQueue queue;
    size_t size = 0;
    if (kind_ == StreamKind::kRequests) {
      const RequestHead& head = *request_;
      size = head.size;
      message_.method = buffer_.substr(head.start, head.method_size);
      message_.target = buffer_.substr(head.target, head.target_size);
      message_.kind = head.body;
      message_.fields = Collect(head.section, buffer_.data());
      body_->Reset(head.body, head.content_length, true,
                   !head.has_connection_options);
      const Target target =
          RouteTarget({buffer_.data() + head.path, head.path_size});
      forward_ = target.kind == TargetKind::kApp;
      if (forward_) {
        const std::string app(target.app.data(), target.app.size());
        RequestRewrite with;
        with.client_ip = "10.0.0.1";
        with.app = app;
        with.request_id = "id";
        with.via = "me";
        with.authority = "127.0.0.1:1";
        with.forward_upgrade = MayForwardUpgrade(head, buffer_.data());
        const uint16_t line =
            PatchRequestLine(head, buffer_.data(), target.rest);
        RewriteRequest(head, buffer_.data(), line, with, &text, &queue);
        AppendTo(queue, &message_.forwarded);
      }
    } else {
      const ResponseHead& head = *response_;
      size = head.size;
      message_.status = head.status;
      message_.kind = head.body;
      message_.fields = Collect(head.section, buffer_.data());
      body_->Reset(head.body, head.content_length, true,
                   !head.has_connection_options);
      ResponseRewrite with;
      with.via = "me";
      with.request_id = "id";
      with.date = "Sun, 06 Nov 1994 08:49:37 GMT";
      with.body = head.body;
      with.keep_content_length = head.status >= 200 && head.status != 204;
      with.upgraded = head.status == 101;
      RewriteResponse(head, buffer_.data(), with, &text, &queue);
      AppendTo(queue, &message_.forwarded);
    }
    buffer_.erase(0, size);
    at_ += size;
    in_body_ = true;
  }

  // A message has ended; false if nothing may follow it.
  bool Complete() {
    // Its body is read once more, in one piece and without chunks.
    if (message_.kind == BodyKind::kChunked) {
      BodyReader plain;
      plain.Reset(BodyKind::kChunked, 0, false);
      const BodyReader::Result result =
          plain.Read(raw_body_.data(), raw_body_.size());
      if (!plain.done() || result.consumed != raw_body_.size()) std::abort();
      raw_body_.resize(result.out_size);
    }
    message_.body = raw_body_;
    message_.end = at_;
    bool close = false;
    bool upgrade = false;
    if (kind_ == StreamKind::kRequests) {
      close = request_->close;
      upgrade = request_->method == Method::kConnect || request_->upgrade;
    } else {
      close = response_->close && response_->status >= 200;
      upgrade = response_->status == 101;
    }
    result_.messages.push_back(std::move(message_));
    Begin();
    if (upgrade) {
      result_.end = StreamEnd::kUpgrade;
    } else if (close) {
      result_.end = StreamEnd::kClose;
    }
    return result_.end == StreamEnd::kClean;
  }

  const StreamKind kind_;
  std::unique_ptr<RequestHead> request_;
  std::unique_ptr<ResponseHead> response_;
  std::unique_ptr<BodyReader> body_;
  StreamResult result_;
  StreamMessage message_;
  std::string buffer_;
  std::string raw_body_;
  size_t seen_ = 0;  // Bytes of `buffer_` that are in `raw_body_` already.
  size_t at_ = 0;    // Of `buffer_` in the stream.
  bool in_body_ = false;
  bool forward_ = true;
};

}  // namespace

StreamResult ReadStream(StreamKind kind, absl::string_view bytes,
                        const std::function<size_t()>& next_size) {
  Reader reader(kind);
  while (!bytes.empty()) {
    const size_t take = std::min(bytes.size(), next_size());
    if (!reader.Feed(bytes.substr(0, take))) break;
    bytes.remove_prefix(take);
  }
  return reader.Finish();
}

}  // namespace mycelium::edge
