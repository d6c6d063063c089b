#ifndef SERVICES_EDGE_TEST_CERTIFICATE_H_
#define SERVICES_EDGE_TEST_CERTIFICATE_H_

#include <string>
#include <vector>

#include "absl/status/status.h"

namespace mycelium::edge {

// Writes NAME.crt, valid for `hosts` from now for `days` (which may be
// negative: it has expired), and NAME.key into a directory.
absl::Status WriteTestCertificate(const std::string& directory,
                                  const std::string& name,
                                  const std::vector<std::string>& hosts,
                                  int days = 1);

}  // namespace mycelium::edge

#endif  // SERVICES_EDGE_TEST_CERTIFICATE_H_
