#ifndef LIB_SPORE_CRC32_H_
#define LIB_SPORE_CRC32_H_

#include <cstdint>

#include "absl/strings/string_view.h"

namespace mycelium::spore {

// The CRC-32 of zip of what had the CRC `crc` (0 for nothing) followed by
// `bytes`.
uint32_t ExtendCrc32(uint32_t crc, absl::string_view bytes);

}  // namespace mycelium::spore

#endif  // LIB_SPORE_CRC32_H_
