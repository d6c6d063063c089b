#include "services/repo/wire.h"

#include <string>
#include <vector>

#include "absl/strings/str_join.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "mycelium/repo/v1/repo.pb.h"

namespace mycelium::repo {
namespace {

// `bytes` in pieces of `piece_bytes`.
std::vector<absl::string_view> Split(absl::string_view bytes,
                                     size_t piece_bytes) {
  std::vector<absl::string_view> pieces;
  for (; !bytes.empty(); bytes.remove_prefix(pieces.back().size())) {
    pieces.push_back(bytes.substr(0, piece_bytes));
  }
  return pieces;
}

TEST(ParseChunkTest, FindsTheBytesHoweverTheMessageIsSplit) {
  for (const size_t size : {0, 1, 127, 128, 5'000, 1 << 20}) {
    v1::PutRequest request;
    request.set_chunk(std::string(size, 'x'));
    const std::string bytes = request.SerializeAsString();
    for (const size_t piece_bytes : {1, 2, 3, 16'384, 4 << 20}) {
      const auto chunk = ParseChunk(Split(bytes, piece_bytes));

      ASSERT_TRUE(chunk.has_value()) << size << " in " << piece_bytes;
      EXPECT_EQ(absl::StrJoin(*chunk, ""), request.chunk());
    }
  }
}

TEST(ParseChunkTest, LeavesEverythingElseToProtobuf) {
  v1::PutRequest header;
  header.mutable_header()->set_digest("abc");
  v1::PutRequest chunk;
  chunk.set_chunk("abc");
  const std::string good = chunk.SerializeAsString();
  const std::string cases[] = {
      "",
      header.SerializeAsString(),
      good + good,
      good + "x",
      good.substr(0, good.size() - 1),
      good.substr(0, 1),
      "\x12\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
  };
  for (const std::string& bytes : cases) {
    EXPECT_FALSE(ParseChunk({bytes}).has_value())
        << testing::PrintToString(bytes);
    EXPECT_FALSE(ParseChunk(Split(bytes, 1)).has_value());
  }
}

TEST(GetResponsePrefixTest, IsWhatProtobufReads) {
  for (const int64_t offset : {int64_t{0}, int64_t{1}, int64_t{3} << 30}) {
    for (const int64_t size : {int64_t{0}, int64_t{300}, int64_t{4} << 30}) {
      for (const size_t chunk_bytes : {size_t{0}, size_t{1}, size_t{1} << 19}) {
        const std::string chunk(chunk_bytes, 'x');

        v1::GetResponse response;
        ASSERT_TRUE(response.ParseFromString(
            GetResponsePrefix(offset, size, chunk_bytes) + chunk));

        EXPECT_EQ(response.offset(), offset);
        EXPECT_EQ(response.size_bytes(), size);
        EXPECT_EQ(response.chunk(), chunk);
      }
    }
  }
}

}  // namespace
}  // namespace mycelium::repo
