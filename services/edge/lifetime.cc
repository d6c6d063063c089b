#include "services/edge/lifetime.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <utility>

#include "absl/strings/str_cat.h"
#include "glog/logging.h"
#include "lib/base/status_macros.h"

namespace mycelium::edge {
namespace {

// Between two looks whether this process is ready to take over.
constexpr int kReadyPollMs = 5;

sigset_t LifetimeSignals() {
  sigset_t signals;
  sigemptyset(&signals);
  for (const int signal : {SIGINT, SIGTERM, SIGHUP, SIGUSR2})
    sigaddset(&signals, signal);
  return signals;
}

}  // namespace

void BlockLifetimeSignals() {
  const sigset_t signals = LifetimeSignals();
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  struct sigaction action = {};
  action.sa_handler = SIG_IGN;
  sigaction(SIGPIPE, &action, nullptr);
}

absl::StatusOr<std::unique_ptr<Lifetime>> Lifetime::Create(Options options,
                                                           Edge* edge,
                                                           Clock* clock) {
  const sigset_t wanted = LifetimeSignals();
  UniqueFd signals(signalfd(-1, &wanted, SFD_CLOEXEC | SFD_NONBLOCK));
  if (!signals.valid()) return ErrnoStatus(errno, "signalfd");
  UniqueFd drained(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!drained.valid()) return ErrnoStatus(errno, "eventfd");
  return std::unique_ptr<Lifetime>(new Lifetime(
      std::move(options), edge, clock, std::move(signals), std::move(drained)));
}

Lifetime::Lifetime(Options options, Edge* edge, Clock* clock, UniqueFd signals,
                   UniqueFd drained)
    : options_(std::move(options)),
      edge_(*edge),
      clock_(*clock),
      signals_(std::move(signals)),
      drained_(std::move(drained)),
      pid_file_(options_.pid_file) {}

Lifetime::~Lifetime() {
  if (joiner_.joinable()) {
    edge_.Drain();
    joiner_.join();
  }
}

int Lifetime::TakeSignal() {
  signalfd_siginfo info{};
  if (read(signals_.get(), &info, sizeof(info)) !=
      static_cast<ssize_t>(sizeof(info))) {
    return 0;
  }
  return static_cast<int>(info.ssi_signo);
}

absl::Status Lifetime::Begin(Predecessor* predecessor) {
  if (predecessor != nullptr) {
    bool said = false;
    for (;;) {
      std::array<pollfd, 2> wait = {
          {{signals_.get(), POLLIN, 0}, {predecessor->fd(), POLLIN, 0}}};
      poll(wait.data(), wait.size(), said ? -1 : kReadyPollMs);
      const int signal = TakeSignal();
      if (signal == SIGTERM || signal == SIGINT) {
        return absl::CancelledError(
            absl::StrCat("signal ", signal, " before this process took over"));
      }
      if (signal != 0) upgrade_again_ = true;
      MYC_ASSIGN_OR_RETURN(const bool go, predecessor->MayGo());
      if (go) break;
      if (!said && edge_.ready()) {
        said = true;
        MYC_RETURN_IF_ERROR(predecessor->SayReady());
      }
    }
    edge_.StartAccepting();
  }
  MYC_RETURN_IF_ERROR(pid_file_.Write());
  NotifyServiceManager(absl::StrCat("MAINPID=", getpid(), "\nREADY=1"));
  if (predecessor != nullptr) {
    // Should it have ended in this moment, there is all the more to do.
    predecessor->SayAccepting().IgnoreError();
    LOG(INFO) << "took over from the old process";
  }
  return absl::OkStatus();
}

int Lifetime::PollTimeoutMs() const {
  absl::Duration least = absl::InfiniteDuration();
  if (state_ == State::kLameDuck)
    least = std::min(least, lame_duck_until_ - clock_.Monotonic());
  if (state_ == State::kServing && successor_ != nullptr)
    least = std::min(least, successor_->time_left());
  if (least == absl::InfiniteDuration()) return -1;
  // Rounded up, or the last millisecond would be spun away.
  return static_cast<int>(absl::ToInt64Milliseconds(
      std::max(least, absl::ZeroDuration()) + absl::Milliseconds(1)));
}

void Lifetime::Serve() {
  if (std::exchange(upgrade_again_, false)) StartSuccessor();
  for (;;) {
    const bool starting = state_ == State::kServing && successor_ != nullptr;
    std::array<pollfd, 3> wait = {
        {{signals_.get(), POLLIN, 0},
         {drained_.get(), POLLIN, 0},
         {starting ? successor_->fd() : -1, POLLIN, 0}}};
    poll(wait.data(), wait.size(), PollTimeoutMs());
    while (const int signal = TakeSignal()) OnSignal(signal);
    if (state_ == State::kServing && successor_ != nullptr) OnSuccessor();
    if (state_ == State::kLameDuck && clock_.Monotonic() >= lame_duck_until_)
      Drain();
    if ((wait[1].revents & POLLIN) != 0) break;
  }
  joiner_.join();
}

void Lifetime::OnSignal(int signal) {
  if (signal == SIGHUP || signal == SIGUSR2) {
    OnUpgrade(signal);
  } else {
    OnStop(signal);
  }
}

void Lifetime::OnStop(int signal) {
  switch (state_) {
    case State::kServing:
      if (successor_ != nullptr && successor_->may_accept()) {
        // It may have connections by now: soon one of the two serves.
        stop_afterwards_ = signal;
        return;
      }
      LOG(INFO) << "draining on signal " << signal;
      successor_.reset();
      NotifyServiceManager("STOPPING=1");
      if (options_.lame_duck <= absl::ZeroDuration()) return Drain();
      state_ = State::kLameDuck;
      lame_duck_until_ = clock_.Monotonic() + options_.lame_duck;
      edge_.BeginLameDuck();
      return;
    case State::kLameDuck:
      return Drain();
    case State::kHandedOver:
      // Whoever ends us ends the whole service; there is no time to wait for
      // idle clients.
      LOG(INFO) << "ending sooner on signal " << signal;
      state_ = State::kDraining;
      edge_.Drain();
      return;
    case State::kDraining:
      return;
  }
}

void Lifetime::OnUpgrade(int signal) {
  switch (state_) {
    case State::kServing:
      if (successor_ != nullptr) {
        // The file may have been replaced again since it was started.
        upgrade_again_ = true;
        return;
      }
      return StartSuccessor();
    case State::kHandedOver:
      // It is not reaped before we end, so the id is still its own.
      LOG(INFO) << "signal " << signal << " is passed on to process "
                << successor_->pid();
      kill(successor_->pid(), signal);
      return;
    case State::kLameDuck:
    case State::kDraining:
      LOG(WARNING) << "signal " << signal << " is ignored: the edge is ending";
      return;
  }
}

void Lifetime::StartSuccessor() {
  NotifyReloading();
  absl::StatusOr<Heritage> heritage = options_.heritage();
  if (!heritage.ok()) return OnHandoverFailed(heritage.status());
  absl::StatusOr<std::unique_ptr<Successor>> started = Successor::Start(
      options_.program, *heritage, options_.handover_timeout, &clock_);
  if (!started.ok()) return OnHandoverFailed(started.status());
  successor_ = *std::move(started);
  LOG(INFO) << "handing over: " << options_.program.path << " runs as process "
            << successor_->pid();
}

void Lifetime::OnSuccessor() {
  switch (successor_->Advance()) {
    case Successor::State::kStarting:
      return;
    case Successor::State::kFailed: {
      const absl::Status failure = successor_->failure();
      successor_.reset();
      OnHandoverFailed(failure);
      if (stop_afterwards_ != 0) return OnStop(stop_afterwards_);
      if (std::exchange(upgrade_again_, false)) StartSuccessor();
      return;
    }
    case Successor::State::kAccepting:
      break;
  }
  LOG(INFO) << "process " << successor_->pid()
            << " serves now; draining what is under way here";
  state_ = State::kHandedOver;
  NotifyServiceManager(
      absl::StrCat("MAINPID=", successor_->pid(), "\nREADY=1"));
  edge_.HandOver();
  AwaitEnd();
  if (std::exchange(upgrade_again_, false)) kill(successor_->pid(), SIGHUP);
  if (stop_afterwards_ != 0) {
    kill(successor_->pid(), stop_afterwards_);
    OnStop(stop_afterwards_);
  }
  options_.handed_over();
}

void Lifetime::OnHandoverFailed(const absl::Status& status) {
  LOG(ERROR) << "the upgrade failed, this process goes on serving: "
             << status.message();
  NotifyServiceManager("READY=1");
  options_.handover_failed();
}

void Lifetime::Drain() {
  state_ = State::kDraining;
  edge_.Drain();
  AwaitEnd();
}

void Lifetime::AwaitEnd() {
  joiner_ = std::thread([this] {
    edge_.Join();
    const uint64_t one = 1;
    [[maybe_unused]] const ssize_t written =
        write(drained_.get(), &one, sizeof(one));
  });
}

}  // namespace mycelium::edge
