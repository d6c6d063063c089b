// Signals that tell a process to stop, taken by one thread and nowhere else.

#ifndef LIB_BASE_PROCESS_SIGNALS_H_
#define LIB_BASE_PROCESS_SIGNALS_H_

namespace mycelium {

// Blocks SIGINT, SIGTERM and SIGHUP in this thread and in all that it starts,
// and ignores SIGPIPE. Call it first in main(), before anything starts a
// thread, so that WaitForStopSignal() is the only place where they arrive.
void BlockStopSignals();

// Waits for SIGINT or SIGTERM (or SIGHUP, if `take_hangup`; otherwise SIGHUP is
// discarded) and returns its number.
int WaitForStopSignal(bool take_hangup = false);

// Undoes BlockStopSignals() in a child process before it executes a program.
// Async-signal-safe.
void RestoreSignalsForExec();

}  // namespace mycelium

#endif  // LIB_BASE_PROCESS_SIGNALS_H_
