#include "services/edge/target.h"

#include "lib/base/ids.h"

namespace mycelium::edge {
namespace {

int HexValue(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

// Whether every reader of `path` sees the same segments in it.
bool IsUnambiguous(absl::string_view path) {
  int dots = 0;  // In the segment so far, if it is only dots.
  bool only_dots = true;
  for (size_t i = 0; i < path.size(); ++i) {
    int c = static_cast<unsigned char>(path[i]);
    if (c == '%') {
      if (i + 2 >= path.size()) return false;
      const int high = HexValue(path[i + 1]);
      const int low = HexValue(path[i + 2]);
      if (high < 0 || low < 0) return false;
      c = high * 16 + low;
      if (c == 0) return false;
      i += 2;
    } else if (c == '\\') {
      return false;
    }
    if (c == '/' || c == '\\') {
      if (only_dots && (dots == 1 || dots == 2)) return false;
      dots = 0;
      only_dots = true;
    } else if (c == '.') {
      ++dots;
    } else {
      only_dots = false;
    }
  }
  return !(only_dots && (dots == 1 || dots == 2));
}

}  // namespace

Target RouteTarget(absl::string_view target) {
  const size_t query = target.find('?');
  const absl::string_view path = target.substr(0, query);
  if (path.empty() || path.front() != '/')
    return {TargetKind::kUnknown, {}, {}};
  if (!IsUnambiguous(path)) return {TargetKind::kRefused, {}, {}};

  const size_t slash = path.find('/', 1);
  const absl::string_view app =
      path.substr(1, slash == absl::string_view::npos ? slash : slash - 1);
  if (app == "_mesh") {
    return {TargetKind::kMesh, app,
            slash == absl::string_view::npos ? absl::string_view()
                                             : path.substr(slash)};
  }
  if (!IsAppName(app)) return {TargetKind::kUnknown, app, {}};
  if (slash == absl::string_view::npos) {
    return {TargetKind::kRedirect, app,
            query == absl::string_view::npos ? absl::string_view()
                                             : target.substr(query)};
  }
  return {TargetKind::kApp, app, target.substr(slash)};
}

}  // namespace mycelium::edge
