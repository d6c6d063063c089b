// Running meshctl inside a test.

#ifndef TOOLS_MESHCTL_TESTING_H_
#define TOOLS_MESHCTL_TESTING_H_

#include <map>
#include <string>
#include <vector>

namespace mycelium::meshctl {

struct Outcome {
  int code = 0;
  std::string out;
  std::string err;
};

// Runs a command line in `directory` at 2026-02-01T00:00:00Z, with nobody at a
// terminal.
Outcome RunWords(const std::vector<std::string>& words,
                 const std::map<std::string, std::string>& variables,
                 const std::string& directory);

}  // namespace mycelium::meshctl

#endif  // TOOLS_MESHCTL_TESTING_H_
