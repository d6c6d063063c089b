#ifndef SERVICES_AGENT_EXECUTOR_H_
#define SERVICES_AGENT_EXECUTOR_H_

#include <functional>

namespace mycelium::agent {

// Runs work that may block, and then its completion on its owner's thread.
class Executor {
 public:
  virtual ~Executor() = default;
  virtual void Run(std::function<void()> work, std::function<void()> then) = 0;
};

}  // namespace mycelium::agent

#endif  // SERVICES_AGENT_EXECUTOR_H_
