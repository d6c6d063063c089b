// The compression function of SHA-256 for two digests at a time. One digest
// leaves the CPU waiting for the result of each round; a second one fits in
// between.

#ifndef LIB_CRYPTO_SHA256_PAIR_H_
#define LIB_CRYPTO_SHA256_PAIR_H_

#include <cstddef>
#include <cstdint>

namespace mycelium::crypto {

// The eight words of a digest under way, and the blocks of 64 bytes that come
// next. The blocks of a pair may overlap and need no alignment.
struct Sha256Stream {
  uint32_t* state;
  const char* blocks;
};

// Whether this machine has the instructions for CompressPair().
bool CanCompressPair();

// Feeds `count` blocks to each of the two. Only if CanCompressPair().
void CompressPair(const Sha256Stream& first, const Sha256Stream& second,
                  size_t count);

}  // namespace mycelium::crypto

#endif  // LIB_CRYPTO_SHA256_PAIR_H_
