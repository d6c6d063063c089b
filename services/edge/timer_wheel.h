#ifndef SERVICES_EDGE_TIMER_WHEEL_H_
#define SERVICES_EDGE_TIMER_WHEEL_H_

#include <array>
#include <cstdint>
#include <vector>

namespace mycelium::edge {

// What a wheel keeps of one timer; part of the object that it times.
struct Timer {
  static constexpr int64_t kNever = INT64_MAX;

  Timer* previous = nullptr;
  Timer* next = nullptr;
  int64_t deadline_ms = kNever;
  int64_t linked_ms = 0;  // The deadline by which its slot was chosen.
  void* owner = nullptr;

  bool linked() const { return next != nullptr; }
};

// A hashed timer wheel. Timers fire at most one tick late and never early. A
// timer that is moved to later, as most are with every request, stays in its
// slot until that comes by, so that moving it costs one store. Times are
// milliseconds of a monotonic clock. Not thread-safe.
class TimerWheel {
 public:
  static constexpr int kTickMs = 8;

  explicit TimerWheel(int64_t now_ms);
  TimerWheel(const TimerWheel&) = delete;
  TimerWheel& operator=(const TimerWheel&) = delete;

  // Arms or moves `timer`.
  void Arm(Timer* timer, int64_t deadline_ms);
  // The timer will not fire; it may stay linked.
  static void Disarm(Timer* timer) { timer->deadline_ms = Timer::kNever; }
  // Takes it out of the wheel; required before it is destroyed.
  void Remove(Timer* timer);

  // Disarms and returns the next timer that is due at `now_ms`; nullptr when
  // no more are.
  Timer* PopExpired(int64_t now_ms);

  // Milliseconds that may be slept from `now_ms` on, at most `limit_ms`.
  int SleepMs(int64_t now_ms, int limit_ms) const;

 private:
  static constexpr int kSlots = 4096;

  static int SlotOf(int64_t tick) {
    return static_cast<int>(tick & (kSlots - 1));
  }
  int64_t TickOf(int64_t deadline_ms) const;
  void Link(Timer* timer);
  void Unlink(Timer* timer);

  int64_t tick_;  // Every slot before it is done with.
  std::vector<Timer> heads_;
  std::array<uint64_t, kSlots / 64> used_{};
  Timer* cursor_ = nullptr;  // Where PopExpired goes on in the slot of tick_.
};

}  // namespace mycelium::edge

#endif  // SERVICES_EDGE_TIMER_WHEEL_H_
