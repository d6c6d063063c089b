// Where the log of a process goes.

#ifndef LIB_TELEMETRY_LOGGING_H_
#define LIB_TELEMETRY_LOGGING_H_

namespace mycelium::telemetry {

// Starts logging to stderr, one line a record, and to no file. Call it once,
// after the flags are parsed. `program` must outlive the process: argv[0].
void InitLogging(const char* program);

}  // namespace mycelium::telemetry

#endif  // LIB_TELEMETRY_LOGGING_H_
