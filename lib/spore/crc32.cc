#include "lib/spore/crc32.h"

#include <zlib.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace mycelium::spore {
namespace {

uint32_t Portable(uint32_t crc, absl::string_view bytes) {
  return static_cast<uint32_t>(crc32_z(
      crc, reinterpret_cast<const unsigned char*>(bytes.data()), bytes.size()));
}

#if defined(__x86_64__)

// Debian's zlib computes CRCs about as fast as the CPU computes SHA-256, which
// would halve the speed of verification. This is the algorithm of Gopal et al.,
// "Fast CRC Computation for Generic Polynomials Using PCLMULQDQ Instruction"
// (Intel, 2009), with the constants for the reflected polynomial of zip. It
// takes at least 64 bytes, in multiples of 16.
__attribute__((target("pclmul,sse4.1"))) uint32_t Folded(
    uint32_t crc, absl::string_view bytes) {
  const __m128i by_512 = _mm_set_epi64x(0x01c6e41596, 0x0154442bd4);
  const __m128i by_128 = _mm_set_epi64x(0x00ccaa009e, 0x01751997d0);
  const __m128i by_64 = _mm_set_epi64x(0, 0x0163cd6124);
  const __m128i barrett = _mm_set_epi64x(0x01f7011641, 0x01db710641);
  const __m128i low_words = _mm_setr_epi32(~0, 0, ~0, 0);
  const auto load = [](const char* from) {
    return _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
  };

  const char* next = bytes.data();
  size_t left = bytes.size();
  __m128i x1 =
      _mm_xor_si128(load(next), _mm_cvtsi32_si128(static_cast<int>(~crc)));
  __m128i x2 = load(next + 16);
  __m128i x3 = load(next + 32);
  __m128i x4 = load(next + 48);
  next += 64;
  left -= 64;

  for (; left >= 64; next += 64, left -= 64) {
    const __m128i y1 = _mm_clmulepi64_si128(x1, by_512, 0x00);
    const __m128i y2 = _mm_clmulepi64_si128(x2, by_512, 0x00);
    const __m128i y3 = _mm_clmulepi64_si128(x3, by_512, 0x00);
    const __m128i y4 = _mm_clmulepi64_si128(x4, by_512, 0x00);
    x1 = _mm_clmulepi64_si128(x1, by_512, 0x11);
    x2 = _mm_clmulepi64_si128(x2, by_512, 0x11);
    x3 = _mm_clmulepi64_si128(x3, by_512, 0x11);
    x4 = _mm_clmulepi64_si128(x4, by_512, 0x11);
    x1 = _mm_xor_si128(_mm_xor_si128(x1, y1), load(next));
    x2 = _mm_xor_si128(_mm_xor_si128(x2, y2), load(next + 16));
    x3 = _mm_xor_si128(_mm_xor_si128(x3, y3), load(next + 32));
    x4 = _mm_xor_si128(_mm_xor_si128(x4, y4), load(next + 48));
  }

  // The four lanes into one, then what is left of the input.
  for (const __m128i lane : {x2, x3, x4}) {
    const __m128i low = _mm_clmulepi64_si128(x1, by_128, 0x00);
    const __m128i high = _mm_clmulepi64_si128(x1, by_128, 0x11);
    x1 = _mm_xor_si128(_mm_xor_si128(high, low), lane);
  }
  for (; left >= 16; next += 16, left -= 16) {
    const __m128i low = _mm_clmulepi64_si128(x1, by_128, 0x00);
    const __m128i high = _mm_clmulepi64_si128(x1, by_128, 0x11);
    x1 = _mm_xor_si128(_mm_xor_si128(high, low), load(next));
  }

  // 128 bits to 64, and to 32 by Barrett's reduction.
  x2 = _mm_clmulepi64_si128(x1, by_128, 0x10);
  x1 = _mm_xor_si128(_mm_srli_si128(x1, 8), x2);
  x2 = _mm_srli_si128(x1, 4);
  x1 = _mm_clmulepi64_si128(_mm_and_si128(x1, low_words), by_64, 0x00);
  x1 = _mm_xor_si128(x1, x2);
  x2 = _mm_clmulepi64_si128(_mm_and_si128(x1, low_words), barrett, 0x10);
  x2 = _mm_clmulepi64_si128(_mm_and_si128(x2, low_words), barrett, 0x00);
  return ~static_cast<uint32_t>(_mm_extract_epi32(_mm_xor_si128(x1, x2), 1));
}

#endif

}  // namespace

uint32_t ExtendCrc32(uint32_t crc, absl::string_view bytes) {
#if defined(__x86_64__)
  static const bool has_pclmul =
      __builtin_cpu_supports("pclmul") && __builtin_cpu_supports("sse4.1");
  if (has_pclmul && bytes.size() >= 64) {
    const size_t folded = bytes.size() & ~size_t{15};
    crc = Folded(crc, bytes.substr(0, folded));
    bytes.remove_prefix(folded);
  }
#endif
  return Portable(crc, bytes);
}

}  // namespace mycelium::spore
