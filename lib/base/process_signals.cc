#include "lib/base/process_signals.h"

#include <pthread.h>

#include <csignal>

namespace mycelium {
namespace {

sigset_t StopSignals() {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGINT);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGHUP);
  return signals;
}

void SetPipeHandler(void (*handler)(int)) {
  struct sigaction action = {};
  action.sa_handler = handler;
  sigaction(SIGPIPE, &action, nullptr);
}

}  // namespace

void BlockStopSignals() {
  const sigset_t signals = StopSignals();
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  // A peer that hangs up is an error of one write, not the end of the process.
  SetPipeHandler(SIG_IGN);
}

int WaitForStopSignal(bool take_hangup) {
  const sigset_t signals = StopSignals();
  while (true) {
    int received = 0;
    if (sigwait(&signals, &received) != 0) continue;
    if (received != SIGHUP || take_hangup) return received;
  }
}

void RestoreSignalsForExec() {
  const sigset_t signals = StopSignals();
  pthread_sigmask(SIG_UNBLOCK, &signals, nullptr);
  SetPipeHandler(SIG_DFL);
}

}  // namespace mycelium
