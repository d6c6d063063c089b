#include "services/fabric/store/codec.h"

#include <cstddef>
#include <utility>

namespace mycelium::fabric {
namespace {

// Odd constants with well-mixed bits, from the fractions of square roots.
constexpr uint64_t kMultiplier1 = 0x9e3779b97f4a7c15;
constexpr uint64_t kMultiplier2 = 0xbf58476d1ce4e5b9;
constexpr uint64_t kMultiplier3 = 0x94d049bb133111eb;

// The entry as the allocator sees it, beside its key and value, with its share
// of the trees that lead to it.
constexpr int64_t kEntryOverheadBytes = 200;

constexpr char kPut = 'P';
constexpr char kDelete = 'D';

// The finalizer of SplitMix64: every input bit reaches every output bit.
uint64_t Mix(uint64_t x) {
  x = (x ^ (x >> 30)) * kMultiplier2;
  x = (x ^ (x >> 27)) * kMultiplier3;
  return x ^ (x >> 31);
}

// Little-endian, whatever the machine is; compilers make one load of it.
uint64_t Load(const char* bytes, size_t count) {
  uint64_t value = 0;
  for (size_t i = 0; i < count; ++i) {
    value |= uint64_t{static_cast<unsigned char>(bytes[i])} << (8 * i);
  }
  return value;
}

void AppendInt(uint64_t value, size_t count, std::string& out) {
  for (size_t i = 0; i < count; ++i) {
    out.push_back(static_cast<char>(value >> (8 * i)));
  }
}

void AppendInt64(int64_t value, std::string& out) {
  AppendInt(static_cast<uint64_t>(value), 8, out);
}

void AppendBytes(absl::string_view bytes, std::string& out) {
  AppendInt(bytes.size(), 4, out);
  out.append(bytes.data(), bytes.size());
}

// Takes values off the front of a string; false once it is too short.
class Reader {
 public:
  explicit Reader(absl::string_view data) : data_(data) {}

  bool empty() const { return data_.empty(); }

  bool Int(size_t count, uint64_t& value) {
    if (data_.size() < count) return false;
    value = Load(data_.data(), count);
    data_.remove_prefix(count);
    return true;
  }

  bool Int64(int64_t& value) {
    uint64_t bits = 0;
    if (!Int(8, bits)) return false;
    value = static_cast<int64_t>(bits);
    return true;
  }

  bool Bytes(std::string& value) {
    uint64_t size = 0;
    if (!Int(4, size) || data_.size() < size) return false;
    value.assign(data_.data(), size);
    data_.remove_prefix(size);
    return true;
  }

  bool EntryFields(Entry& entry) {
    return Bytes(entry.key) && Bytes(entry.value) &&
           Int64(entry.create_revision) && Int64(entry.mod_revision) &&
           Int64(entry.version) && Int64(entry.lease);
  }

 private:
  absl::string_view data_;
};

}  // namespace

uint64_t Fingerprint(absl::string_view data, uint64_t seed) {
  uint64_t hash = Mix(seed + kMultiplier1) ^ (data.size() * kMultiplier1);
  while (data.size() >= 8) {
    hash = (hash ^ Mix(Load(data.data(), 8))) * kMultiplier1;
    data.remove_prefix(8);
  }
  return Mix(hash ^ Mix(Load(data.data(), data.size()) + kMultiplier2));
}

uint64_t FingerprintOf(const Entry& entry) {
  uint64_t hash = Fingerprint(entry.key, 1);
  hash = Fingerprint(entry.value, hash);
  for (const int64_t field : {entry.create_revision, entry.mod_revision,
                              entry.version, entry.lease}) {
    hash = Mix(hash * kMultiplier1 + static_cast<uint64_t>(field));
  }
  return hash;
}

uint64_t UpdateDigest(uint64_t digest, const Batch& batch) {
  for (const Change& change : batch.changes) {
    if (change.previous != nullptr) digest -= FingerprintOf(*change.previous);
    if (change.entry != nullptr) digest += FingerprintOf(*change.entry);
  }
  return digest;
}

int64_t CostOf(const Entry& entry) {
  return static_cast<int64_t>(entry.key.size() + entry.value.size()) +
         kEntryOverheadBytes;
}

void EncodeBatch(const Batch& batch, std::string& out) {
  AppendInt64(batch.revision, out);
  AppendInt(batch.changes.size(), 4, out);
  for (const Change& change : batch.changes) {
    const Entry& entry = change.deleted() ? *change.previous : *change.entry;
    out.push_back(change.deleted() ? kDelete : kPut);
    AppendBytes(entry.key, out);
    AppendBytes(entry.value, out);
    AppendInt64(entry.create_revision, out);
    AppendInt64(entry.mod_revision, out);
    AppendInt64(entry.version, out);
    AppendInt64(entry.lease, out);
  }
}

bool DecodeBatches(absl::string_view data,
                   std::vector<std::shared_ptr<Batch>>& batches) {
  Reader reader(data);
  while (!reader.empty()) {
    auto batch = std::make_shared<Batch>();
    uint64_t count = 0;
    if (!reader.Int64(batch->revision) || !reader.Int(4, count)) return false;
    for (uint64_t i = 0; i < count; ++i) {
      auto entry = std::make_shared<Entry>();
      uint64_t kind = 0;
      if (!reader.Int(1, kind) || !reader.EntryFields(*entry)) return false;
      batch->size_bytes += static_cast<size_t>(CostOf(*entry));
      if (kind == kPut) {
        batch->changes.push_back({std::move(entry), nullptr});
      } else if (kind == kDelete) {
        batch->changes.push_back({nullptr, std::move(entry)});
      } else {
        return false;
      }
    }
    batches.push_back(std::move(batch));
  }
  return true;
}

}  // namespace mycelium::fabric
