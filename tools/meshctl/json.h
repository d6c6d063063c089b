// JSON as programs read it from meshctl: members in the order in which they
// were added, so that output reads as the contracts are written.

#ifndef TOOLS_MESHCTL_JSON_H_
#define TOOLS_MESHCTL_JSON_H_

#include <cstdint>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "absl/strings/string_view.h"

namespace google::protobuf {
class Message;
}  // namespace google::protobuf

namespace mycelium::meshctl {

// A JSON value. A value type.
class Json {
 public:
  Json() = default;  // null
  // Implicit, so that values read as they are written.
  Json(bool value) : value_(value) {}                            // NOLINT
  Json(int value) : value_(int64_t{value}) {}                    // NOLINT
  Json(int64_t value) : value_(value) {}                         // NOLINT
  Json(double value) : value_(value) {}                          // NOLINT
  Json(const char* value) : value_(std::string(value)) {}        // NOLINT
  Json(std::string value) : value_(std::move(value)) {}          // NOLINT
  Json(absl::string_view value) : value_(std::string(value)) {}  // NOLINT

  static Json Array();
  static Json Object();
  static Json Strings(const std::vector<std::string>& values);

  // Appends to this array.
  Json& Add(Json element);
  // Appends a member to this object; the name must be new.
  Json& Set(absl::string_view name, Json value);

  bool is_null() const;
  // The elements of this array; empty if this is none.
  const std::vector<Json>& elements() const;
  // The member's value, or null if there is none or this is no object.
  const Json* Find(absl::string_view name) const;

  // On one line, without a newline at the end. Strings that are not UTF-8 get
  // U+FFFD for what is wrong.
  std::string Compact() const;
  // Indented by two, with a newline at the end.
  std::string Pretty() const;
  // As YAML 1.2, with a newline at the end.
  std::string Yaml() const;

 private:
  using Elements = std::vector<Json>;
  using Members = std::vector<std::pair<std::string, Json>>;

  void Write(std::string& out, int indent) const;
  void WriteYaml(std::string& out, int indent) const;

  std::variant<std::monostate, bool, int64_t, double, std::string, Elements,
               Members>
      value_;
};

// `text` as a JSON string, quotes included.
std::string JsonQuoted(absl::string_view text);

// A message with the names of proto3's JSON mapping, every field that has no
// presence included. Unlike there, 64-bit numbers are numbers, as the data
// contract has them, as long as they are exact in a double; and details of a
// google.rpc.Status become its `reason`.
Json FromProto(const google::protobuf::Message& message);

}  // namespace mycelium::meshctl

#endif  // TOOLS_MESHCTL_JSON_H_
