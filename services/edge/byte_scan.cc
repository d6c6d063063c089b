#include "services/edge/byte_scan.h"

#if defined(__SSE2__)
#include <emmintrin.h>
#endif
#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace mycelium::edge {

const char* FindControlPortable(const char* begin, const char* end) {
  for (; begin != end; ++begin) {
    const auto c = static_cast<unsigned char>(*begin);
    if ((c < 0x20 && c != '\t') || c == 0x7f) return begin;
  }
  return end;
}

const char* FindControl(const char* begin, const char* end) {
#if defined(__AVX2__)
  while (end - begin >= 32) {
    const __m256i bytes =
        _mm256_loadu_si256(reinterpret_cast<const __m256i*>(begin));
    const __m256i low = _mm256_cmpeq_epi8(
        _mm256_min_epu8(bytes, _mm256_set1_epi8(0x1f)), bytes);
    const __m256i tab = _mm256_cmpeq_epi8(bytes, _mm256_set1_epi8('\t'));
    const __m256i del = _mm256_cmpeq_epi8(bytes, _mm256_set1_epi8(0x7f));
    const auto hits = static_cast<unsigned>(_mm256_movemask_epi8(
        _mm256_or_si256(_mm256_andnot_si256(tab, low), del)));
    if (hits != 0) return begin + __builtin_ctz(hits);
    begin += 32;
  }
#endif
#if defined(__SSE2__)
  while (end - begin >= 16) {
    const __m128i bytes =
        _mm_loadu_si128(reinterpret_cast<const __m128i*>(begin));
    // There is no unsigned comparison: min(b, 0x1f) == b where b <= 0x1f.
    const __m128i low =
        _mm_cmpeq_epi8(_mm_min_epu8(bytes, _mm_set1_epi8(0x1f)), bytes);
    const __m128i tab = _mm_cmpeq_epi8(bytes, _mm_set1_epi8('\t'));
    const __m128i del = _mm_cmpeq_epi8(bytes, _mm_set1_epi8(0x7f));
    const auto hits = static_cast<unsigned>(
        _mm_movemask_epi8(_mm_or_si128(_mm_andnot_si128(tab, low), del)));
    if (hits != 0) return begin + __builtin_ctz(hits);
    begin += 16;
  }
#endif
  return FindControlPortable(begin, end);
}

}  // namespace mycelium::edge
