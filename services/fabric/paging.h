// Pages of a list, and the tokens that lead from one to the next.
#ifndef SERVICES_FABRIC_PAGING_H_
#define SERVICES_FABRIC_PAGING_H_

#include <cstdint>
#include <functional>
#include <string>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "services/fabric/store/store.h"

namespace mycelium::fabric {

// What a token stands for.
struct PageCursor {
  size_t size = 0;       // Of this page; never 0.
  int64_t revision = 0;  // That all pages are read at; 0 on the first page.
  std::string after_key;
};

// The page that a request asks for. `query` is everything else that the request
// selects by: a token goes with the query that it was made for.
//
// InvalidArgument (REQUEST_INVALID): `page_size` is negative.
// InvalidArgument (PAGE_TOKEN_INVALID): the token is none of this store's, or
// of another query.
absl::StatusOr<PageCursor> OpenPage(const std::string& epoch,
                                    absl::string_view query, int32_t page_size,
                                    absl::string_view token);

// The token for what follows `after_key` at `revision`.
std::string MakePageToken(const std::string& epoch, absl::string_view query,
                          int64_t revision, absl::string_view after_key);

// What a page says beside its items.
struct PageEnd {
  std::string next_page_token;
  int64_t revision = 0;
  std::string epoch;
};

// Reads one page of the entries under `prefix`, in the order of keys. `take`
// adds an entry, read at `revision`, to the answer, or says false to skip it.
//
// All pages are true at the revision of the first one as long as the store
// still knows it; a later page is true at the newest revision otherwise.
absl::StatusOr<PageEnd> ReadPage(Store& store, absl::string_view query,
                                 absl::string_view prefix, int32_t page_size,
                                 absl::string_view token,
                                 absl::FunctionRef<absl::StatusOr<bool>(
                                     const Entry& entry, int64_t revision)>
                                     take);

}  // namespace mycelium::fabric

#endif  // SERVICES_FABRIC_PAGING_H_
