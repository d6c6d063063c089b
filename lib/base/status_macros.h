// Early return of errors, for functions that return absl::Status or StatusOr.
//
// Macros, because no function can return from its caller.

#ifndef LIB_BASE_STATUS_MACROS_H_
#define LIB_BASE_STATUS_MACROS_H_

#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

// Returns from the calling function if `expression` is not OK.
#define MYC_RETURN_IF_ERROR(expression)                  \
  do {                                                   \
    absl::Status myc_status_value = (expression);        \
    if (!myc_status_value.ok()) return myc_status_value; \
  } while (false)

#define MYC_CONCAT_INNER(a, b) a##b
#define MYC_CONCAT(a, b) MYC_CONCAT_INNER(a, b)

// Assigns the value of a StatusOr, or returns its error:
//   MYC_ASSIGN_OR_RETURN(const std::string text, ReadFile(path));
#define MYC_ASSIGN_OR_RETURN(left, expression)                          \
  MYC_ASSIGN_OR_RETURN_IMPL(MYC_CONCAT(myc_status_or_, __LINE__), left, \
                            expression)

#define MYC_ASSIGN_OR_RETURN_IMPL(result, left, expression) \
  auto result = (expression);                               \
  if (!result.ok()) return std::move(result).status();      \
  left = *std::move(result)

#endif  // LIB_BASE_STATUS_MACROS_H_
