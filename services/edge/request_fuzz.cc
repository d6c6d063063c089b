// Any bytes as the head of a request: parsed whole, byte by byte and rewritten.

#include <cstdint>
#include <cstdlib>
#include <memory>
#include <string>

#include "services/edge/head_rewriter.h"
#include "services/edge/http_parser.h"
#include "services/edge/target.h"

namespace mycelium::edge {
namespace {

void Require(bool condition) {
  if (!condition) std::abort();
}

void Check(std::string bytes) {
  auto whole = std::make_unique<RequestHead>();
  whole->Reset();
  const ParseStatus status = whole->Parse(bytes);

  // The same verdict and the same end, however the bytes arrive.
  auto split = std::make_unique<RequestHead>();
  split->Reset();
  ParseStatus split_status = ParseStatus::kIncomplete;
  const size_t step = bytes.size() > 2000 ? bytes.size() / 100 : 1;
  for (size_t size = 0;
       size < bytes.size() && split_status == ParseStatus::kIncomplete;) {
    size = std::min(bytes.size(), size + step);
    split_status = split->Parse({bytes.data(), size});
  }
  if (!bytes.empty()) Require(status == split_status);
  if (status != ParseStatus::kDone) return;
  Require(whole->size == split->size && whole->size <= bytes.size());
  Require(whole->body == split->body &&
          whole->content_length == split->content_length);

  const Target target =
      RouteTarget({bytes.data() + whole->path, whole->path_size});
  if (target.kind != TargetKind::kApp) return;
  RequestRewrite with;
  with.client_ip = "10.0.0.1";
  with.app = target.app;
  with.request_id = "id";
  with.via = "me";
  with.authority = "127.0.0.1:1";
  const std::string app(target.app);
  with.app = app;
  with.forward_upgrade = MayForwardUpgrade(*whole, bytes.data());
  const uint16_t line = PatchRequestLine(*whole, bytes.data(), target.rest);
  TextBuffer text;
  IovecQueue out;
  RewriteRequest(*whole, bytes.data(), line, with, &text, &out);
  std::string forwarded;
  for (int i = 0; i < out.count(); ++i) {
    forwarded.append(static_cast<const char*>(out.data()[i].iov_base),
                     out.data()[i].iov_len);
  }

  // What goes out is one message of the same framing by our own strict rules.
  // (Its head may be a little longer than what came in.)
  auto again = std::make_unique<RequestHead>();
  again->Reset();
  if (whole->section.count > 80) return;  // Added lines may exceed the limit.
  Require(again->Parse(forwarded, 65535) == ParseStatus::kDone);
  Require(again->size == forwarded.size());
  Require(again->body == whole->body &&
          again->content_length == whole->content_length);
  Require(again->minor_version == 1 && !again->close);
}

}  // namespace
}  // namespace mycelium::edge

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size > 40'000) return 0;
  mycelium::edge::Check(std::string(reinterpret_cast<const char*>(data), size));
  return 0;
}
