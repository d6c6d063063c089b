// Reads a stream of bytes the way the edge does: messages one after the other,
// whose bytes arrive in pieces of any size. For tests only: it copies freely.

#ifndef SERVICES_EDGE_MESSAGE_STREAM_H_
#define SERVICES_EDGE_MESSAGE_STREAM_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/string_view.h"
#include "services/edge/http_parser.h"

namespace mycelium::edge {

struct StreamMessage {
  // Offsets in the stream. An empty line before a request belongs to it.
  size_t begin = 0;
  size_t end = 0;
  std::string method;  // Of a request.
  std::string target;
  int status = 0;  // Of a response.
  BodyKind kind = BodyKind::kNone;
  std::vector<std::pair<std::string, std::string>> fields;
  std::vector<std::pair<std::string, std::string>> trailers;
  std::string body;  // Without chunks.
  // What the edge would send on; empty for a request that goes to no app.
  std::string forwarded;
};

enum class StreamEnd : uint8_t {
  kClean,       // Behind a message.
  kIncomplete,  // In the middle of one.
  kError,
  // Behind a message after which the connection speaks no more HTTP, or ends.
  kClose,
  kUpgrade,
};

struct StreamResult {
  std::vector<StreamMessage> messages;  // The complete ones.
  StreamEnd end = StreamEnd::kClean;
  HttpError error = HttpError::kNone;
  std::string unfinished;  // Sent on of a message that never ended.
};

enum class StreamKind : uint8_t {
  kRequests,
  kResponses,      // To GET.
  kHeadResponses,  // To HEAD.
};

// `next_size` says how many bytes arrive next, at least 1.
StreamResult ReadStream(StreamKind kind, absl::string_view bytes,
                        const std::function<size_t()>& next_size);

}  // namespace mycelium::edge

#endif  // SERVICES_EDGE_MESSAGE_STREAM_H_
