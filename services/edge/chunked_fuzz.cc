// Any bytes as a chunked body, in two different splits, kept and taken apart.

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <string>

#include "services/edge/body_reader.h"

namespace mycelium::edge {
namespace {

struct Outcome {
  std::string out;
  bool error = false;
  bool done = false;
  size_t consumed = 0;
};

void Require(bool condition) {
  if (!condition) std::abort();
}

Outcome Run(const std::string& input, size_t step, bool keep) {
  auto reader = std::make_unique<BodyReader>();
  reader->Reset(BodyKind::kChunked, 0, keep);
  Outcome outcome;
  std::string buffer;
  for (size_t at = 0; at < input.size() && !outcome.error && !reader->done();) {
    const size_t take = std::min(step, input.size() - at);
    buffer += input.substr(at, take);
    at += take;
    while (!buffer.empty() && !reader->done()) {
      const BodyReader::Result result =
          reader->Read(buffer.data(), buffer.size());
      Require(result.consumed <= buffer.size() &&
              result.out_size <= result.consumed);
      outcome.error = result.step == BodyReader::Step::kError;
      if (result.step == BodyReader::Step::kPiece) {
        ChunkLine line;
        IovecQueue queue;
        QueuePiece(keep ? BodyKind::kChunked : BodyKind::kUntilClose,
                   buffer.data(), result.out_size, result.last, *reader, &line,
                   &queue);
        for (int i = 0; i < queue.count(); ++i) {
          outcome.out.append(static_cast<const char*>(queue.data()[i].iov_base),
                             queue.data()[i].iov_len);
        }
      }
      buffer.erase(0, result.consumed);
      outcome.consumed += result.consumed;
      if (result.step != BodyReader::Step::kPiece) break;
    }
  }
  outcome.done = reader->done();
  return outcome;
}

void Check(const std::string& input) {
  const Outcome whole = Run(input, input.size(), true);
  const Outcome split = Run(input, 1 + input.size() / 500, true);
  Require(whole.error == split.error && whole.done == split.done);
  if (!whole.error)
    Require(whole.out == split.out && whole.consumed == split.consumed);
  const Outcome raw = Run(input, 3, false);
  Require(raw.error == whole.error && raw.done == whole.done);
  if (!whole.done) return;
  // What goes out reads the same again.
  const Outcome again = Run(whole.out, whole.out.size(), true);
  Require(again.done && again.out == whole.out &&
          again.consumed == whole.out.size());
  Require(Run(whole.out, 5, false).out == raw.out);
}

}  // namespace
}  // namespace mycelium::edge

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 1 || size > 20'000) return 0;
  mycelium::edge::Check(std::string(reinterpret_cast<const char*>(data), size));
  return 0;
}
