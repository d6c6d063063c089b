#include "services/edge/rate_limiter.h"

#include <netinet/in.h>
#include <sys/mman.h>
#include <sys/random.h>

#include <cstring>
#include <random>

#include "glog/logging.h"

namespace mycelium::edge {
namespace {

uint64_t RotateLeft(uint64_t value, int by) {
  return value << by | value >> (64 - by);
}

// SipHash-1-3 of two words: fast, and not to be predicted without the key.
class SipHash {
 public:
  explicit SipHash(const uint64_t (&key)[2])
      : a_(key[0] ^ 0x736f6d6570736575ULL),
        b_(key[1] ^ 0x646f72616e646f6dULL),
        c_(key[0] ^ 0x6c7967656e657261ULL),
        d_(key[1] ^ 0x7465646279746573ULL) {}

  void Add(uint64_t word) {
    d_ ^= word;
    Round();
    a_ ^= word;
  }
  uint64_t Finish() {
    Add(uint64_t{16} << 56);
    c_ ^= 0xff;
    Round();
    Round();
    Round();
    return a_ ^ b_ ^ c_ ^ d_;
  }

 private:
  void Round() {
    a_ += b_;
    b_ = RotateLeft(b_, 13) ^ a_;
    a_ = RotateLeft(a_, 32);
    c_ += d_;
    d_ = RotateLeft(d_, 16) ^ c_;
    a_ += d_;
    d_ = RotateLeft(d_, 21) ^ a_;
    c_ += b_;
    b_ = RotateLeft(b_, 17) ^ c_;
    c_ = RotateLeft(c_, 32);
  }

  uint64_t a_;
  uint64_t b_;
  uint64_t c_;
  uint64_t d_;
};

}  // namespace

uint64_t ClientKey(const sockaddr_storage& address) {
  constexpr uint64_t kIpv4 = uint64_t{0xffff} << 32;
  if (address.ss_family == AF_INET) {
    return kIpv4 |
           ntohl(reinterpret_cast<const sockaddr_in&>(address).sin_addr.s_addr);
  }
  if (address.ss_family != AF_INET6) return 0;
  const in6_addr& ipv6 =
      reinterpret_cast<const sockaddr_in6&>(address).sin6_addr;
  const size_t from = IN6_IS_ADDR_V4MAPPED(&ipv6) ? 8 : 0;
  uint64_t key = 0;
  for (size_t i = from; i < from + 8; ++i) key = key << 8 | ipv6.s6_addr[i];
  return key;
}

ClientRateTable::ClientRateTable() {
  if (getrandom(secret_, sizeof(secret_), 0) !=
      static_cast<ssize_t>(sizeof(secret_))) {
    std::random_device device;
    for (uint64_t& word : secret_) word = uint64_t{device()} << 32 | device();
  }
  // The kernel's pages are zero, as unused sets are, and take no memory until
  // they are written to.
  void* const memory =
      mmap(nullptr, kSets * sizeof(Set), PROT_READ | PROT_WRITE,
           MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  PCHECK(memory != MAP_FAILED) << "address space for clients' rate limits";
  sets_ = static_cast<Set*>(memory);
}

ClientRateTable::~ClientRateTable() { munmap(sets_, kSets * sizeof(Set)); }

uint64_t ClientRateTable::Hash(uint64_t app, uint64_t client) const {
  SipHash hash(secret_);
  hash.Add(app);
  hash.Add(client);
  const uint64_t value = hash.Finish();
  return value != 0 ? value : 1;
}

int64_t ClientRateTable::Take(uint64_t app, uint64_t client,
                              const RateLimit& limit, int64_t now_ns) {
  return Find(Hash(app, client), now_ns)->Take(limit, now_ns);
}

RateCell* ClientRateTable::Find(uint64_t key, int64_t now_ns) {
  Set& set = sets_[key % kSets];
  for (size_t i = 0; i < kWays; ++i) {
    if (set.keys[i].load(std::memory_order_relaxed) == key)
      return &set.cells[i];
  }
  // The fullest bucket is the least loss; one that is full is none. Races only
  // ever cost a client or two the exactness of one token.
  size_t fullest = 0;
  for (size_t i = 1; i < kWays; ++i) {
    if (set.cells[i].due_ns() < set.cells[fullest].due_ns()) fullest = i;
  }
  set.keys[fullest].store(key, std::memory_order_relaxed);
  if (set.cells[fullest].due_ns() > now_ns) {
    overflows_.fetch_add(1, std::memory_order_relaxed);
    set.cells[fullest].Refill();
  }
  return &set.cells[fullest];
}

}  // namespace mycelium::edge
