#include "lib/spore/contents.h"

#include <algorithm>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "lib/base/ids.h"
#include "lib/base/status_macros.h"
#include "lib/spore/refusal.h"

namespace mycelium::spore {
namespace {

bool HasFile(const std::vector<Entry>& entries, absl::string_view path) {
  return path != kManifestPath &&
         std::any_of(entries.begin(), entries.end(),
                     [&](const Entry& entry) { return entry.path == path; });
}

bool IsSigned(const Manifest& manifest, absl::string_view path) {
  return manifest.files.has_value()
             ? manifest.files->count(std::string(path)) > 0
             : path == manifest.binary;
}

// Whether the entries but the manifest are those that it covers.
absl::Status CheckPaths(const Manifest& manifest,
                        const std::vector<Entry>& entries) {
  for (const std::string& path : {manifest.binary, manifest.command}) {
    if (!HasFile(entries, path)) {
      return Refuse("E_BINARY_MISSING",
                    absl::StrCat("the manifest names ", Quoted(path),
                                 ", which is not a file of the zip"));
    }
  }
  size_t files = 0;
  for (const Entry& entry : entries) {
    if (entry.path == kManifestPath) continue;
    ++files;
    if (!IsSigned(manifest, entry.path)) {
      return Refuse("E_UNSIGNED_FILE",
                    absl::StrCat("entry ", Quoted(entry.path),
                                 " is covered by no signature"));
    }
  }
  if (manifest.files.has_value() && files < manifest.files->size()) {
    for (const auto& [path, info] : *manifest.files) {
      if (!HasFile(entries, path)) {
        return Refuse("E_FILE_MISSING",
                      absl::StrCat("the manifest lists ", Quoted(path),
                                   ", which is not a file of the zip"));
      }
    }
  }
  return absl::OkStatus();
}

// What the signature says about one entry that it covers.
absl::StatusOr<SignedEntry> MatchEntry(const Manifest& manifest,
                                       const Entry& entry) {
  SignedEntry result = {
      .entry = entry,
      .sha256 = manifest.binary_sha256,
      .exec = entry.path == manifest.binary || entry.path == manifest.command};
  if (!manifest.files.has_value()) return result;
  const FileInfo& info = manifest.files->at(entry.path);
  if (info.size != entry.size) {
    return Refuse("E_HASH", absl::StrCat("entry ", Quoted(entry.path), " has ",
                                         entry.size, " bytes, but ", info.size,
                                         " are signed"));
  }
  if (entry.path == manifest.binary && info.sha256 != manifest.binary_sha256) {
    return Refuse("E_HASH",
                  "the manifest has two hashes for the binary: one in files, "
                  "another in binary_sha256");
  }
  result.sha256 = info.sha256;
  result.exec = result.exec || info.exec;
  return result;
}

}  // namespace

absl::StatusOr<std::vector<SignedEntry>> MatchEntries(
    const Manifest& manifest, const std::vector<Entry>& entries) {
  // First of all, so that the verdict does not depend on the order of entries.
  MYC_RETURN_IF_ERROR(CheckPaths(manifest, entries));
  std::vector<SignedEntry> matched;
  for (const Entry& entry : entries) {
    if (entry.path == kManifestPath) continue;
    MYC_ASSIGN_OR_RETURN(SignedEntry match, MatchEntry(manifest, entry));
    matched.push_back(std::move(match));
  }
  return matched;
}

}  // namespace mycelium::spore
