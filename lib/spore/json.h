// JSON of one meaning: a strict reader of I-JSON (RFC 7493) and the canonical
// writer of RFC 8785 (JCS).
//
//   MYC_ASSIGN_OR_RETURN(const spore::JsonValue value, spore::ParseJson(text));
//   if (const spore::JsonValue* name = value.Find("name")) Use(name->string());
//   const std::string canonical = spore::Canonicalize(value);

#ifndef LIB_SPORE_JSON_H_
#define LIB_SPORE_JSON_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace mycelium::spore {

// A JSON value: null, bool, number (a double), string (UTF-8), array or object.
// A value type; asking for another type than it has ends the process.
class JsonValue {
 public:
  using Array = std::vector<JsonValue>;
  // Sorted by name in the order of their bytes, each name once.
  using Object = std::vector<std::pair<std::string, JsonValue>>;

  JsonValue() = default;  // null
  // Implicit, so that values read as they are written.
  JsonValue(bool value) : value_(value) {}                            // NOLINT
  JsonValue(double value) : value_(value) {}                          // NOLINT
  JsonValue(int value) : value_(static_cast<double>(value)) {}        // NOLINT
  JsonValue(int64_t value) : value_(static_cast<double>(value)) {}    // NOLINT
  JsonValue(const char* value) : value_(std::string(value)) {}        // NOLINT
  JsonValue(std::string value) : value_(std::move(value)) {}          // NOLINT
  JsonValue(absl::string_view value) : value_(std::string(value)) {}  // NOLINT
  JsonValue(Array value) : value_(std::move(value)) {}                // NOLINT

  // An object without members.
  static JsonValue MakeObject();

  bool is_null() const;
  bool is_bool() const;
  bool is_number() const;
  bool is_string() const;
  bool is_array() const;
  bool is_object() const;

  bool boolean() const;
  double number() const;
  const std::string& string() const;
  const Array& array() const;
  const Object& object() const;

  // The number as an integer, if this is a number and has no fraction.
  std::optional<int64_t> integer() const;

  // "null", "a boolean", "a number", …: for error messages.
  absl::string_view type_name() const;

  // The member of this object, or null if there is none or this is no object.
  const JsonValue* Find(absl::string_view name) const;

  // Adds or replaces a member of this object.
  void Set(absl::string_view name, JsonValue value);

  // Removes a member of this object if it is there.
  void Remove(absl::string_view name);

 private:
  friend class JsonReader;

  std::variant<std::monostate, bool, double, std::string, Array, Object> value_;
};

struct JsonLimits {
  size_t max_bytes = size_t{256} << 10;
  // Arrays and objects within each other.
  int max_depth = 16;
  // Values of every type, containers included.
  int max_values = 20'000;
};

// Reads one JSON text with nothing but white space around it.
//
// Refuses, besides what RFC 8259 does not allow: invalid UTF-8, a byte order
// mark, lone surrogates and noncharacters, names that occur twice in an object
// (after unescaping), and numbers beyond ±(2^53 - 1) however they are spelled.
// Numbers are their values: 250, 250.0 and 2.5e2 are the same.
//
// E_JSON; the message says where.
absl::StatusOr<JsonValue> ParseJson(absl::string_view text,
                                    const JsonLimits& limits = {});

// The canonical form of RFC 8785: UTF-8, members in the order of their UTF-16
// code units, numbers as ECMAScript prints them, no white space. Numbers must
// be finite.
std::string Canonicalize(const JsonValue& value);

// JSON for people: indented, members in the order of their names, a newline at
// the end.
std::string PrettyPrint(const JsonValue& value);

// A number as ECMAScript's Number::toString prints it.
std::string FormatNumber(double value);

}  // namespace mycelium::spore

#endif  // LIB_SPORE_JSON_H_
