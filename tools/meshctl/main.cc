// meshctl: builds, publishes and runs spores on a mesh, and shows what it does.

#include <sys/ioctl.h>
#include <unistd.h>

#include <climits>
#include <map>
#include <string>
#include <vector>

#include "glog/logging.h"
#include "lib/base/clock.h"
#include "lib/base/file.h"
#include "tools/meshctl/session.h"

namespace mycelium::meshctl {
namespace {

class DescriptorSink final : public Sink {
 public:
  explicit DescriptorSink(int fd) : fd_(fd) {}

  void Write(absl::string_view text) override {
    // Nobody is left to be told of a failure; a closed pipe ends the process.
    (void)WriteFully(fd_, text);
  }
  bool IsTerminal() const override { return isatty(fd_) == 1; }

 private:
  const int fd_;
};

std::map<std::string, std::string> AllVariables() {
  std::map<std::string, std::string> values;
  for (char** entry = environ; *entry != nullptr; ++entry) {
    const std::string pair = *entry;
    const size_t equals = pair.find('=');
    if (equals != std::string::npos) {
      values[pair.substr(0, equals)] = pair.substr(equals + 1);
    }
  }
  return values;
}

std::string ProgramPath() {
  char path[PATH_MAX];
  const ssize_t length = readlink("/proc/self/exe", path, sizeof(path));
  return length < 0 ? "" : std::string(path, static_cast<size_t>(length));
}

size_t TerminalWidth() {
  winsize size = {};
  return ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 ? size.ws_col : 0;
}

std::string WorkingDirectory() {
  char path[PATH_MAX];
  return getcwd(path, sizeof(path)) == nullptr ? "." : path;
}

}  // namespace
}  // namespace mycelium::meshctl

int main(int argc, char** argv) {
  namespace meshctl = mycelium::meshctl;
  const std::vector<std::string> words(argv + 1, argv + argc);
  // What libraries log is for those who ask for it.
  int verbosity = 0;
  for (const std::string& word : words) {
    if (word == "--") break;
    verbosity += word == "-vv"                         ? 2
                 : word == "-v" || word == "--verbose" ? 1
                                                       : 0;
  }
  FLAGS_logtostderr = true;
  FLAGS_minloglevel = verbosity > 1 ? google::GLOG_INFO : google::GLOG_FATAL;
  google::InitGoogleLogging(argv[0]);

  meshctl::DescriptorSink out(STDOUT_FILENO);
  meshctl::DescriptorSink err(STDERR_FILENO);
  meshctl::Environment environment;
  environment.variables = meshctl::Variables(meshctl::AllVariables());
  environment.directory = meshctl::WorkingDirectory();
  environment.program = meshctl::ProgramPath();
  environment.invoked_as = argv[0];
  environment.clock = mycelium::Clock::Real();
  environment.out = &out;
  environment.err = &err;
  environment.interactive = isatty(STDIN_FILENO) == 1 && err.IsTerminal();
  environment.terminal_width = meshctl::TerminalWidth();
  return meshctl::RunMeshctl(words, environment);
}
