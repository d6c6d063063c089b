// The wire form of the two messages that carry a spore's bytes, read and
// written by hand so that the bytes themselves are not copied.

#ifndef SERVICES_REPO_WIRE_H_
#define SERVICES_REPO_WIRE_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"

namespace mycelium::repo {

// If a serialized PutRequest, which lies in `pieces`, is a chunk and nothing
// else: the pieces of the chunk. Otherwise (a header, an unknown field, a wrong
// length) nothing; then let protobuf read it.
std::optional<std::vector<absl::string_view>> ParseChunk(
    const std::vector<absl::string_view>& pieces);

// All of a serialized GetResponse but the bytes of its chunk, which come right
// after it. `size_bytes` 0 leaves that field out.
std::string GetResponsePrefix(int64_t offset, int64_t size_bytes,
                              size_t chunk_bytes);

}  // namespace mycelium::repo

#endif  // SERVICES_REPO_WIRE_H_
