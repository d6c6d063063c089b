#include "lib/telemetry/logging.h"

#include "glog/logging.h"

namespace mycelium::telemetry {

void InitLogging(const char* program) {
  FLAGS_logtostderr = true;
  google::InitGoogleLogging(program);
}

}  // namespace mycelium::telemetry
