// Any bytes as the head of a response: parsed whole, byte by byte and
// rewritten.

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <string>

#include "services/edge/head_rewriter.h"
#include "services/edge/http_parser.h"

namespace mycelium::edge {
namespace {

void Require(bool condition) {
  if (!condition) std::abort();
}

void Check(std::string bytes, Method method) {
  auto whole = std::make_unique<ResponseHead>();
  whole->Reset();
  const ParseStatus status = whole->Parse(bytes, method);
  auto split = std::make_unique<ResponseHead>();
  split->Reset();
  ParseStatus split_status = ParseStatus::kIncomplete;
  const size_t step = bytes.size() > 2000 ? bytes.size() / 100 : 1;
  for (size_t size = 0;
       size < bytes.size() && split_status == ParseStatus::kIncomplete;) {
    size = std::min(bytes.size(), size + step);
    split_status = split->Parse({bytes.data(), size}, method);
  }
  if (!bytes.empty()) Require(status == split_status);
  if (status != ParseStatus::kDone) return;
  Require(whole->size == split->size && whole->size <= bytes.size());

  ResponseRewrite with;
  with.via = "me";
  with.request_id = "id";
  with.date = "Sun, 06 Nov 1994 08:49:37 GMT";
  with.body =
      whole->body == BodyKind::kUntilClose ? BodyKind::kChunked : whole->body;
  with.keep_content_length = whole->status >= 200 && whole->status != 204;
  TextBuffer text;
  IovecQueue out;
  RewriteResponse(*whole, bytes.data(), with, &text, &out);
  std::string forwarded;
  for (int i = 0; i < out.count(); ++i) {
    forwarded.append(static_cast<const char*>(out.data()[i].iov_base),
                     out.data()[i].iov_len);
  }
  if (whole->section.count > 90) return;  // Added lines may exceed the limit.
  auto again = std::make_unique<ResponseHead>();
  again->Reset();
  Require(again->Parse(forwarded, method, 65535) == ParseStatus::kDone);
  Require(again->size == forwarded.size() && again->status == whole->status);
  Require(again->body == with.body);
  if (again->body == BodyKind::kLength) {
    Require(again->content_length == whole->content_length);
  }
}

}  // namespace
}  // namespace mycelium::edge

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 1 || size > 40'000) return 0;
  const auto method = data[0] % 2 == 0 ? mycelium::edge::Method::kGet
                                       : mycelium::edge::Method::kHead;
  mycelium::edge::Check(
      std::string(reinterpret_cast<const char*>(data) + 1, size - 1), method);
  return 0;
}
