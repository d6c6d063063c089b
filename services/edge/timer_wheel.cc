#include "services/edge/timer_wheel.h"

#include <algorithm>

namespace mycelium::edge {

TimerWheel::TimerWheel(int64_t now_ms)
    : tick_(now_ms / kTickMs), heads_(kSlots) {
  for (Timer& head : heads_) head.previous = head.next = &head;
}

int64_t TimerWheel::TickOf(int64_t deadline_ms) const {
  // Rounded up, so that all that is in a slot is due when the slot is.
  return std::max(tick_, (deadline_ms + kTickMs - 1) / kTickMs);
}

void TimerWheel::Arm(Timer* timer, int64_t deadline_ms) {
  timer->deadline_ms = deadline_ms;
  if (timer->linked()) {
    if (deadline_ms >= timer->linked_ms) return;
    Unlink(timer);
  }
  Link(timer);
}

void TimerWheel::Remove(Timer* timer) {
  if (timer->linked()) Unlink(timer);
  timer->deadline_ms = Timer::kNever;
}

void TimerWheel::Link(Timer* timer) {
  timer->linked_ms = timer->deadline_ms;
  const int slot = SlotOf(TickOf(timer->deadline_ms));
  Timer& head = heads_[slot];
  timer->previous = head.previous;
  timer->next = &head;
  head.previous->next = timer;
  head.previous = timer;
  used_[slot / 64] |= uint64_t{1} << (slot % 64);
}

void TimerWheel::Unlink(Timer* timer) {
  if (cursor_ == timer) cursor_ = timer->next;
  timer->previous->next = timer->next;
  timer->next->previous = timer->previous;
  timer->previous = timer->next = nullptr;
}

Timer* TimerWheel::PopExpired(int64_t now_ms) {
  const int64_t now_tick = now_ms / kTickMs;
  // After a long sleep one turn over all slots is enough.
  tick_ = std::max(tick_, now_tick - kSlots + 1);
  while (tick_ <= now_tick) {
    const int slot = SlotOf(tick_);
    Timer* const head = &heads_[slot];
    if ((used_[slot / 64] >> (slot % 64) & 1) != 0) {
      if (cursor_ == nullptr) cursor_ = head->next;
      while (cursor_ != head) {
        Timer* const timer = cursor_;
        if (timer->deadline_ms == Timer::kNever) {
          Unlink(timer);
        } else if (timer->deadline_ms <= now_ms) {
          Unlink(timer);
          timer->deadline_ms = Timer::kNever;
          return timer;
        } else if (SlotOf(TickOf(timer->deadline_ms)) != slot) {
          Unlink(timer);
          Link(timer);
        } else {
          // Due in this slot, on a later turn. An Arm() to an earlier time
          // must see that it has to link the timer anew.
          timer->linked_ms = timer->deadline_ms;
          cursor_ = timer->next;
        }
      }
      if (head->next == head) used_[slot / 64] &= ~(uint64_t{1} << (slot % 64));
    }
    cursor_ = nullptr;
    // The slot of this very moment may still get timers that are due in it.
    if (tick_ == now_tick) return nullptr;
    ++tick_;
  }
  return nullptr;
}

int TimerWheel::SleepMs(int64_t now_ms, int limit_ms) const {
  const int64_t last =
      std::min<int64_t>(tick_ + kSlots - 1, (now_ms + limit_ms) / kTickMs);
  for (int64_t tick = tick_; tick <= last;) {
    const int slot = SlotOf(tick);
    const uint64_t word = used_[slot / 64] >> (slot % 64);
    if (word == 0) {
      tick += 64 - slot % 64;
      continue;
    }
    tick += __builtin_ctzll(word);
    if (tick > last) break;
    return static_cast<int>(
        std::clamp<int64_t>(tick * kTickMs - now_ms, 0, limit_ms));
  }
  return limit_ms;
}

}  // namespace mycelium::edge
