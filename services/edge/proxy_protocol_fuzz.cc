// Any bytes as a PROXY header, whole and piece by piece.

#include <cstdint>
#include <cstdlib>
#include <cstring>

#include "services/edge/proxy_protocol.h"

namespace mycelium::edge {
namespace {

void Require(bool condition) {
  if (!condition) std::abort();
}

void Check(absl::string_view bytes) {
  ProxyHeader whole;
  const ProxyStatus status = ParseProxyHeader(bytes, &whole);
  if (status == ProxyStatus::kDone)
    Require(whole.size > 0 && whole.size <= bytes.size() &&
            whole.size <= ProxyHeader::kMaxSize);
  if (status == ProxyStatus::kIncomplete)
    Require(bytes.size() < ProxyHeader::kMaxSize);
  // Nothing is ever taken back as more arrives, and nothing is done early.
  bool failed = false;
  for (size_t size = 0; size <= bytes.size() && size < 600; ++size) {
    ProxyHeader part;
    const ProxyStatus at = ParseProxyHeader(bytes.substr(0, size), &part);
    if (failed) Require(at == ProxyStatus::kError);
    failed = at == ProxyStatus::kError;
    if (at != ProxyStatus::kDone) continue;
    Require(status == ProxyStatus::kDone && part.size == whole.size &&
            size >= whole.size && part.has_source == whole.has_source &&
            std::memcmp(&part.source, &whole.source, sizeof(part.source)) == 0);
  }
  if (failed) Require(status == ProxyStatus::kError);
}

}  // namespace
}  // namespace mycelium::edge

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size > 10'000) return 0;
  mycelium::edge::Check({reinterpret_cast<const char*>(data), size});
  return 0;
}
