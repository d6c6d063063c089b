#ifndef SERVICES_EDGE_RATE_LIMITER_H_
#define SERVICES_EDGE_RATE_LIMITER_H_

#include <sys/socket.h>

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>

#include "services/edge/traffic_policy.h"

namespace mycelium::edge {

// One token bucket, as the time at which the next request would be exactly due
// (GCRA's theoretical arrival time). Lock-free; thread-safe.
class RateCell {
 public:
  // Takes a token at `now_ns` of a monotonic clock and returns 0; or, if there
  // is none, returns after how many nanoseconds there will be. `now_ns` may go
  // back by what clocks of threads differ.
  int64_t Take(const RateLimit& limit, int64_t now_ns) {
    int64_t due = due_ns_.load(std::memory_order_relaxed);
    for (;;) {
      // A limit may have been a slower one before; under this one no bucket is
      // ever further behind than that.
      const int64_t latest = now_ns + limit.tolerance_ns + limit.interval_ns;
      int64_t base = due < latest ? due : latest;
      if (base < now_ns) base = now_ns;
      if (base - now_ns > limit.tolerance_ns) {
        if (base < due && !due_ns_.compare_exchange_weak(
                              due, base, std::memory_order_relaxed)) {
          continue;
        }
        return base - now_ns - limit.tolerance_ns;
      }
      if (due_ns_.compare_exchange_weak(due, base + limit.interval_ns,
                                        std::memory_order_relaxed)) {
        return 0;
      }
    }
  }

  // Full buckets are all alike: one whose time is past holds nothing that a new
  // one does not.
  int64_t due_ns() const { return due_ns_.load(std::memory_order_relaxed); }
  void Refill() { due_ns_.store(0, std::memory_order_relaxed); }

 private:
  std::atomic<int64_t> due_ns_{0};
};

// The clients of one address, or of one IPv6 network of 64 bits, since that is
// what one host is given: the first half of the IPv6 address, or the IPv4
// address (also a mapped one) in the form ffff:a.b.c.d.
uint64_t ClientKey(const sockaddr_storage& address);

// Token buckets of clients, by app and client: a table of fixed size without
// locks. A bucket that is full again is forgotten; when more clients than there
// is room for are using tokens, those whose buckets are the fullest lose their
// record, which lets them have a burst too early. Threads that meet a new
// client in the same moment may miscount a token. Thread-safe.
class ClientRateTable {
 public:
  // Clients that are recorded at a time, in all; 16 bytes each. Memory is not
  // used before the first is.
  static constexpr size_t kSets = 32768;
  static constexpr size_t kWays = 8;

  ClientRateTable();
  ~ClientRateTable();
  ClientRateTable(const ClientRateTable&) = delete;
  ClientRateTable& operator=(const ClientRateTable&) = delete;

  // As RateCell::Take, of the bucket of `client` with `app`, a number of the
  // app's own.
  int64_t Take(uint64_t app, uint64_t client, const RateLimit& limit,
               int64_t now_ns);

  // Records that were lost while they were still needed.
  int64_t overflows() const {
    return overflows_.load(std::memory_order_relaxed);
  }

 private:
  // Two lines of a cache.
  struct alignas(128) Set {
    std::array<std::atomic<uint64_t>, kWays> keys;  // 0: never used.
    std::array<RateCell, kWays> cells;
  };

  // Keyed by a secret, so that no one can choose addresses that meet in a set.
  uint64_t Hash(uint64_t app, uint64_t client) const;
  RateCell* Find(uint64_t key, int64_t now_ns);

  uint64_t secret_[2];
  Set* sets_ = nullptr;  // Mapped memory, of kSets.
  std::atomic<int64_t> overflows_{0};
};

}  // namespace mycelium::edge

#endif  // SERVICES_EDGE_RATE_LIMITER_H_
