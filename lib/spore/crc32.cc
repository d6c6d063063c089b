#include "lib/spore/crc32.h"

#include <zlib.h>

namespace mycelium::spore {

uint32_t ExtendCrc32(uint32_t crc, absl::string_view bytes) {
  return static_cast<uint32_t>(crc32_z(
      crc, reinterpret_cast<const unsigned char*>(bytes.data()), bytes.size()));
}

}  // namespace mycelium::spore
