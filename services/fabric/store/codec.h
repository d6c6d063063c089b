// The bytes in which the change log lies on disk, and the checksums that tell
// damage from data. See docs/fabric-store.md.

#ifndef SERVICES_FABRIC_STORE_CODEC_H_
#define SERVICES_FABRIC_STORE_CODEC_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "services/fabric/store/store.h"

namespace mycelium::fabric {

// A 64-bit hash that is the same on every machine and in every release. It is
// good against accidents, not against attackers.
uint64_t Fingerprint(absl::string_view data, uint64_t seed);

// The hash of all fields of an entry. The sum of those of all entries, modulo
// 2^64, is the digest of a state: it can be kept up to date change by change.
uint64_t FingerprintOf(const Entry& entry);

// The digest after `batch` if it was `digest` before.
uint64_t UpdateDigest(uint64_t digest, const Batch& batch);

// About what an entry costs in memory.
int64_t CostOf(const Entry& entry);

// Appends the encoded form of `batch` to `out`. Of what a put replaced nothing
// is kept.
void EncodeBatch(const Batch& batch, std::string& out);

// Takes apart what EncodeBatch wrote, batch after batch. Returns false if
// `data` is not that; `batches` is then incomplete.
bool DecodeBatches(absl::string_view data,
                   std::vector<std::shared_ptr<Batch>>& batches);

}  // namespace mycelium::fabric

#endif  // SERVICES_FABRIC_STORE_CODEC_H_
