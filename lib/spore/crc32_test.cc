#include "lib/spore/crc32.h"

#include <zlib.h>

#include <string>

#include "absl/strings/string_view.h"
#include "gtest/gtest.h"

namespace mycelium::spore {
namespace {

std::string Data(size_t size) {
  std::string data(size, '\0');
  uint32_t state = 12345;
  for (char& c : data) {
    state = state * 1664525 + 1013904223;
    c = static_cast<char>(state >> 24);
  }
  return data;
}

TEST(Crc32Test, HasTheCheckValueOfTheStandard) {
  EXPECT_EQ(ExtendCrc32(0, "123456789"), 0xcbf43926);
  EXPECT_EQ(ExtendCrc32(0, ""), 0u);
}

TEST(Crc32Test, AgreesWithZlibForEveryLengthAndAlignment) {
  const std::string data = Data(700);
  for (size_t begin = 0; begin < 17; ++begin) {
    for (size_t size = 0; begin + size <= data.size(); ++size) {
      const absl::string_view bytes =
          absl::string_view(data).substr(begin, size);
      ASSERT_EQ(ExtendCrc32(0, bytes),
                crc32_z(0, reinterpret_cast<const unsigned char*>(bytes.data()),
                        bytes.size()))
          << begin << " " << size;
    }
  }
}

TEST(Crc32Test, GoesOnWhereItStopped) {
  const std::string data = Data(5000);
  const absl::string_view bytes = data;
  const uint32_t whole = ExtendCrc32(0, bytes);
  for (const size_t cut : {0, 1, 63, 64, 65, 1000, 4999, 5000}) {
    EXPECT_EQ(
        ExtendCrc32(ExtendCrc32(0, bytes.substr(0, cut)), bytes.substr(cut)),
        whole);
  }
}

}  // namespace
}  // namespace mycelium::spore
