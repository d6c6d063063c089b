#include "services/fabric/paging.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "lib/base/error.h"
#include "lib/base/ids.h"
#include "lib/base/status_macros.h"
#include "services/fabric/errors.h"
#include "services/fabric/validate.h"

namespace mycelium::fabric {
namespace {

constexpr absl::string_view kTokenVersion = "1";

}  // namespace

absl::StatusOr<PageCursor> OpenPage(const std::string& epoch,
                                    absl::string_view query, int32_t page_size,
                                    absl::string_view token) {
  if (page_size < 0) {
    FieldViolations violations;
    violations.Add("pageSize",
                   absl::StrCat(page_size, " must not be negative"));
    return violations.ToStatus(kErrorDomain, "REQUEST_INVALID");
  }
  PageCursor cursor;
  cursor.size = static_cast<size_t>(
      page_size == 0 ? kDefaultPageSize : std::min(page_size, kMaxPageSize));
  if (token.empty()) return cursor;

  std::string text;
  std::vector<std::string> parts;
  if (absl::WebSafeBase64Unescape(token, &text)) {
    parts = absl::StrSplit(text, absl::MaxSplits('|', 4));
  }
  // The query comes before the key, and has no '|' in it.
  if (parts.size() != 5 || parts[0] != kTokenVersion || parts[1] != epoch ||
      parts[2] != query || !absl::SimpleAtoi(parts[3], &cursor.revision) ||
      cursor.revision < 0) {
    FieldViolations violations;
    violations.Add("pageToken",
                   absl::StrCat(Quoted(token),
                                " is no token of this list, or the other "
                                "fields have changed; start at the first "
                                "page"));
    return violations.ToStatus(kErrorDomain, "PAGE_TOKEN_INVALID");
  }
  cursor.after_key = std::move(parts[4]);
  return cursor;
}

std::string MakePageToken(const std::string& epoch, absl::string_view query,
                          int64_t revision, absl::string_view after_key) {
  return absl::WebSafeBase64Escape(absl::StrCat(
      kTokenVersion, "|", epoch, "|", query, "|", revision, "|", after_key));
}

absl::StatusOr<PageEnd> ReadPage(Store& store, absl::string_view query,
                                 absl::string_view prefix, int32_t page_size,
                                 absl::string_view token,
                                 absl::FunctionRef<absl::StatusOr<bool>(
                                     const Entry& entry, int64_t revision)>
                                     take) {
  PageEnd end;
  end.epoch = store.Epoch();
  MYC_ASSIGN_OR_RETURN(const PageCursor cursor,
                       OpenPage(end.epoch, query, page_size, token));
  RangeRequest request = RangeRequest::Prefix(prefix);
  request.at_revision = cursor.revision;
  request.after_key = cursor.after_key;
  request.limit = cursor.size;
  for (size_t taken = 0;;) {
    absl::StatusOr<RangeResponse> range = store.Range(request);
    if (range.status().code() == absl::StatusCode::kOutOfRange &&
        request.at_revision != 0) {
      request.at_revision = 0;
      range = store.Range(request);
    }
    if (!range.ok()) return FromStore(range.status());
    end.revision = range->revision;
    request.at_revision = range->revision;
    for (size_t i = 0; i < range->entries.size(); ++i) {
      const Entry& entry = *range->entries[i];
      MYC_ASSIGN_OR_RETURN(const bool kept, take(entry, range->revision));
      if (kept) ++taken;
      request.after_key = entry.key;
      const bool last = i + 1 == range->entries.size() && !range->more;
      if (taken == cursor.size && !last) {
        end.next_page_token =
            MakePageToken(end.epoch, query, end.revision, entry.key);
        return end;
      }
    }
    if (!range->more) return end;
  }
}

}  // namespace mycelium::fabric
