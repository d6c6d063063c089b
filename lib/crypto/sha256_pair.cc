#include "lib/crypto/sha256_pair.h"

#include <cstdlib>

#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>
#endif

namespace mycelium::crypto {

#if defined(__x86_64__)

namespace {

constexpr size_t kBlockBytes = 64;

// A step is four rounds, and four words of the message schedule.
constexpr size_t kSteps = 16;

alignas(16) constexpr uint32_t kRoundConstants[4 * kSteps] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1,
    0x923f82a4, 0xab1c5ed5, 0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3,
    0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174, 0xe49b69c1, 0xefbe4786,
    0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147,
    0x06ca6351, 0x14292967, 0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13,
    0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85, 0xa2bfe8a1, 0xa81a664b,
    0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a,
    0x5b9cca4f, 0x682e6ff3, 0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208,
    0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

#define MYC_PAIR __attribute__((target("sha,sse4.1")))
#define MYC_PAIR_INLINE \
  __attribute__((target("sha,sse4.1"), always_inline)) inline

// The state as the instructions want it.
struct Registers {
  __m128i abef;
  __m128i cdgh;
};

MYC_PAIR_INLINE __m128i LoadWords(const void* from) {
  return _mm_loadu_si128(static_cast<const __m128i*>(from));
}

MYC_PAIR_INLINE Registers LoadState(const uint32_t* state) {
  const __m128i cdab = _mm_shuffle_epi32(LoadWords(state), 0xB1);
  const __m128i efgh = _mm_shuffle_epi32(LoadWords(state + 4), 0x1B);
  return {.abef = _mm_alignr_epi8(cdab, efgh, 8),
          .cdgh = _mm_blend_epi16(efgh, cdab, 0xF0)};
}

MYC_PAIR_INLINE void StoreState(const Registers& registers, uint32_t* state) {
  const __m128i feba = _mm_shuffle_epi32(registers.abef, 0x1B);
  const __m128i dchg = _mm_shuffle_epi32(registers.cdgh, 0xB1);
  auto* const to = reinterpret_cast<__m128i*>(state);
  _mm_storeu_si128(to, _mm_blend_epi16(feba, dchg, 0xF0));
  _mm_storeu_si128(to + 1, _mm_alignr_epi8(dchg, feba, 8));
}

// A block as words.
MYC_PAIR_INLINE void LoadBlock(const char* from, __m128i (&w)[4]) {
  const __m128i big_endian =
      _mm_set_epi64x(0x0c0d0e0f08090a0b, 0x0405060700010203);
  for (size_t i = 0; i < 4; ++i) {
    w[i] = _mm_shuffle_epi8(LoadWords(from + 16 * i), big_endian);
  }
}

// In the ring `w` of sixteen words of the message schedule, replaces those of
// step `kStep` by those of the step four later.
template <size_t kStep>
MYC_PAIR_INLINE void ExtendSchedule(__m128i (&w)[4]) {
  if constexpr (kStep + 4 < kSteps) {
    const __m128i last = w[(kStep + 3) % 4];
    w[kStep % 4] = _mm_sha256msg2_epu32(
        _mm_add_epi32(_mm_sha256msg1_epu32(w[kStep % 4], w[(kStep + 1) % 4]),
                      _mm_alignr_epi8(last, w[(kStep + 2) % 4], 4)),
        last);
  }
}

// Two rounds, with the lower two of `words`. The two halves of the state take
// turns.
MYC_PAIR_INLINE void TwoRounds(__m128i words, __m128i from, __m128i& to) {
  to = _mm_sha256rnds2_epu32(to, from, words);
}

template <size_t kStep>
MYC_PAIR_INLINE void Steps(__m128i (&first_w)[4], __m128i (&second_w)[4],
                           Registers& first, Registers& second) {
  const __m128i constants = LoadWords(kRoundConstants + 4 * kStep);
  const __m128i first_words = _mm_add_epi32(first_w[kStep % 4], constants);
  const __m128i second_words = _mm_add_epi32(second_w[kStep % 4], constants);
  TwoRounds(first_words, first.abef, first.cdgh);
  TwoRounds(second_words, second.abef, second.cdgh);
  ExtendSchedule<kStep>(first_w);
  ExtendSchedule<kStep>(second_w);
  TwoRounds(_mm_shuffle_epi32(first_words, 0x0E), first.cdgh, first.abef);
  TwoRounds(_mm_shuffle_epi32(second_words, 0x0E), second.cdgh, second.abef);
  if constexpr (kStep + 1 < kSteps) {
    Steps<kStep + 1>(first_w, second_w, first, second);
  }
}

MYC_PAIR_INLINE void Add(const Registers& from, Registers& to) {
  to.abef = _mm_add_epi32(to.abef, from.abef);
  to.cdgh = _mm_add_epi32(to.cdgh, from.cdgh);
}

bool HasInstructions() {
  constexpr unsigned kShaBit = 1U << 29;
  unsigned a = 0;
  unsigned b = 0;
  unsigned c = 0;
  unsigned d = 0;
  return __get_cpuid_count(7, 0, &a, &b, &c, &d) != 0 && (b & kShaBit) != 0 &&
         __builtin_cpu_supports("sse4.1");
}

}  // namespace

bool CanCompressPair() {
  static const bool can = HasInstructions();
  return can;
}

MYC_PAIR void CompressPair(const Sha256Stream& first,
                           const Sha256Stream& second, size_t count) {
  Registers a = LoadState(first.state);
  Registers b = LoadState(second.state);
  for (size_t i = 0; i < count; ++i) {
    __m128i a_words[4];
    __m128i b_words[4];
    LoadBlock(first.blocks + i * kBlockBytes, a_words);
    LoadBlock(second.blocks + i * kBlockBytes, b_words);
    const Registers a_before = a;
    const Registers b_before = b;
    Steps<0>(a_words, b_words, a, b);
    Add(a_before, a);
    Add(b_before, b);
  }
  StoreState(a, first.state);
  StoreState(b, second.state);
}

#undef MYC_PAIR
#undef MYC_PAIR_INLINE

#else

bool CanCompressPair() { return false; }

void CompressPair(const Sha256Stream& /*first*/, const Sha256Stream& /*second*/,
                  size_t /*count*/) {
  std::abort();
}

#endif

}  // namespace mycelium::crypto
