#include "lib/base/signal_watcher.h"

#include <pthread.h>

#include <csignal>
#include <utility>

namespace mycelium {
namespace {

sigset_t SetOf(int signal) {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, signal);
  return signals;
}

}  // namespace

void BlockSignal(int signal) {
  const sigset_t signals = SetOf(signal);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
}

SignalWatcher::SignalWatcher(int signal, std::function<void()> on_signal)
    : signal_(signal), on_signal_(std::move(on_signal)) {
  thread_ = std::thread([this] { Run(); });
}

SignalWatcher::~SignalWatcher() {
  stopping_.store(true);
  // Only this thread waits for it, so it wakes nobody else.
  pthread_kill(thread_.native_handle(), signal_);
  thread_.join();
}

void SignalWatcher::Run() {
  const sigset_t signals = SetOf(signal_);
  while (true) {
    int received = 0;
    if (sigwait(&signals, &received) != 0) continue;
    if (stopping_.load()) return;
    on_signal_();
  }
}

}  // namespace mycelium
