#include "tools/meshctl/json.h"

#include <cmath>
#include <cstdint>
#include <string>
#include <utility>
#include <variant>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "google/protobuf/descriptor.h"
#include "google/protobuf/duration.pb.h"
#include "google/protobuf/message.h"
#include "google/protobuf/timestamp.pb.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"

namespace mycelium::meshctl {
namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::Reflection;

constexpr int64_t kMaxExact = (int64_t{1} << 53) - 1;

// Length of the well-formed UTF-8 sequence at the start of `text`, or 0.
size_t SequenceLength(absl::string_view text) {
  const auto byte = [&text](size_t i) {
    return static_cast<unsigned char>(text[i]);
  };
  const unsigned char first = byte(0);
  size_t length = 0;
  uint32_t low = 0;
  uint32_t value = 0;
  if (first < 0x80) return 1;
  if (first >= 0xc2 && first <= 0xdf) {
    length = 2, low = 0x80, value = first & 0x1fU;
  } else if ((first & 0xf0U) == 0xe0) {
    length = 3, low = 0x800, value = first & 0x0fU;
  } else if (first >= 0xf0 && first <= 0xf4) {
    length = 4, low = 0x10000, value = first & 0x07U;
  } else {
    return 0;
  }
  if (text.size() < length) return 0;
  for (size_t i = 1; i < length; ++i) {
    if ((byte(i) & 0xc0U) != 0x80) return 0;
    value = (value << 6U) | (byte(i) & 0x3fU);
  }
  const bool surrogate = value >= 0xd800 && value <= 0xdfff;
  return value < low || value > 0x10ffff || surrogate ? 0 : length;
}

std::string Number(double value) {
  if (!std::isfinite(value)) return "null";
  if (value == std::floor(value) && std::fabs(value) < 1e15) {
    return absl::StrFormat("%.0f", value);
  }
  for (int digits = 6; digits < 17; ++digits) {
    std::string text = absl::StrFormat("%.*g", digits, value);
    double back = 0;
    if (absl::SimpleAtod(text, &back) && back == value) return text;
  }
  return absl::StrFormat("%.17g", value);
}

// Whether a YAML reader takes `text` for the string that it is, unquoted.
bool IsPlainYaml(absl::string_view text) {
  if (text.empty()) return false;
  for (const char c : text) {
    if (!absl::ascii_isalnum(static_cast<unsigned char>(c)) && c != '-' &&
        c != '_' && c != '.' && c != '/') {
      return false;
    }
  }
  if (!absl::ascii_isalpha(static_cast<unsigned char>(text[0]))) return false;
  for (const absl::string_view word :
       {"true", "false", "null", "yes", "no", "on", "off", "y", "n"}) {
    if (absl::EqualsIgnoreCase(text, word)) return false;
  }
  return true;
}

std::string YamlKey(absl::string_view text) {
  return IsPlainYaml(text) ? std::string(text) : JsonQuoted(text);
}

Json FromInteger(int64_t value) {
  if (value > kMaxExact || value < -kMaxExact) return absl::StrCat(value);
  return value;
}

Json FromTimestamp(const Message& message) {
  google::protobuf::Timestamp time;
  time.CopyFrom(message);
  return absl::FormatTime(
      "%Y-%m-%dT%H:%M:%E*SZ",
      absl::FromUnixSeconds(time.seconds()) + absl::Nanoseconds(time.nanos()),
      absl::UTCTimeZone());
}

Json FromDuration(const Message& message) {
  google::protobuf::Duration duration;
  duration.CopyFrom(message);
  return absl::StrCat(
      Number(static_cast<double>(duration.seconds()) + duration.nanos() / 1e9),
      "s");
}

Json FromStatus(const Message& message) {
  google::rpc::Status status;
  status.CopyFrom(message);
  Json json = Json::Object();
  json.Set("code", status.code()).Set("message", status.message());
  for (const google::protobuf::Any& detail : status.details()) {
    google::rpc::ErrorInfo info;
    if (detail.UnpackTo(&info)) {
      json.Set("reason", info.reason());
      break;
    }
  }
  return json;
}

// The value of a field, or with `index` >= 0 of one element of it.
Json FromField(const Message& message, const FieldDescriptor& field,
               int index) {
  const Reflection& reflection = *message.GetReflection();
  const bool one = index >= 0;
  switch (field.cpp_type()) {
    case FieldDescriptor::CPPTYPE_BOOL:
      return one ? reflection.GetRepeatedBool(message, &field, index)
                 : reflection.GetBool(message, &field);
    case FieldDescriptor::CPPTYPE_INT32:
      return one ? reflection.GetRepeatedInt32(message, &field, index)
                 : reflection.GetInt32(message, &field);
    case FieldDescriptor::CPPTYPE_INT64:
      return FromInteger(
          one ? reflection.GetRepeatedInt64(message, &field, index)
              : reflection.GetInt64(message, &field));
    case FieldDescriptor::CPPTYPE_UINT32:
      return static_cast<int64_t>(
          one ? reflection.GetRepeatedUInt32(message, &field, index)
              : reflection.GetUInt32(message, &field));
    case FieldDescriptor::CPPTYPE_UINT64:
      return absl::StrCat(
          one ? reflection.GetRepeatedUInt64(message, &field, index)
              : reflection.GetUInt64(message, &field));
    case FieldDescriptor::CPPTYPE_DOUBLE:
      return one ? reflection.GetRepeatedDouble(message, &field, index)
                 : reflection.GetDouble(message, &field);
    case FieldDescriptor::CPPTYPE_FLOAT:
      return static_cast<double>(
          one ? reflection.GetRepeatedFloat(message, &field, index)
              : reflection.GetFloat(message, &field));
    case FieldDescriptor::CPPTYPE_ENUM:
      return std::string(
          (one ? reflection.GetRepeatedEnum(message, &field, index)
               : reflection.GetEnum(message, &field))
              ->name());
    case FieldDescriptor::CPPTYPE_STRING: {
      const std::string text =
          one ? reflection.GetRepeatedString(message, &field, index)
              : reflection.GetString(message, &field);
      if (field.type() == FieldDescriptor::TYPE_BYTES) {
        return absl::Base64Escape(text);
      }
      return text;
    }
    case FieldDescriptor::CPPTYPE_MESSAGE:
      return FromProto(
          one ? reflection.GetRepeatedMessage(message, &field, index)
              : reflection.GetMessage(message, &field));
  }
  return {};
}

}  // namespace

Json Json::Array() {
  Json json;
  json.value_ = Elements();
  return json;
}

Json Json::Object() {
  Json json;
  json.value_ = Members();
  return json;
}

Json Json::Strings(const std::vector<std::string>& values) {
  Json json = Array();
  for (const std::string& value : values) json.Add(value);
  return json;
}

Json& Json::Add(Json element) {
  std::get<Elements>(value_).push_back(std::move(element));
  return *this;
}

Json& Json::Set(absl::string_view name, Json value) {
  std::get<Members>(value_).emplace_back(name, std::move(value));
  return *this;
}

bool Json::is_null() const {
  return std::holds_alternative<std::monostate>(value_);
}

const std::vector<Json>& Json::elements() const {
  static const auto& none = *new Elements;
  const auto* elements = std::get_if<Elements>(&value_);
  return elements == nullptr ? none : *elements;
}

const Json* Json::Find(absl::string_view name) const {
  const Members* members = std::get_if<Members>(&value_);
  if (members == nullptr) return nullptr;
  for (const auto& [key, value] : *members) {
    if (key == name) return &value;
  }
  return nullptr;
}

std::string Json::Compact() const {
  std::string out;
  Write(out, -1);
  return out;
}

std::string Json::Pretty() const {
  std::string out;
  Write(out, 0);
  return out + "\n";
}

std::string Json::Yaml() const {
  std::string out;
  WriteYaml(out, 0);
  if (out.empty() || out.back() != '\n') out += '\n';
  return out;
}

void Json::Write(std::string& out, int indent) const {
  const bool pretty = indent >= 0;
  const auto new_line = [&out, pretty](int depth) {
    if (pretty)
      absl::StrAppend(&out, "\n",
                      std::string(static_cast<size_t>(depth) * 2, ' '));
  };
  const int inner = pretty ? indent + 1 : -1;
  if (const auto* elements = std::get_if<Elements>(&value_)) {
    out += '[';
    for (const Json& element : *elements) {
      if (&element != elements->data()) out += ',';
      new_line(inner);
      element.Write(out, inner);
    }
    if (!elements->empty()) new_line(indent);
    out += ']';
  } else if (const auto* members = std::get_if<Members>(&value_)) {
    out += '{';
    for (const auto& member : *members) {
      if (&member != members->data()) out += ',';
      new_line(inner);
      absl::StrAppend(&out, JsonQuoted(member.first), pretty ? ": " : ":");
      member.second.Write(out, inner);
    }
    if (!members->empty()) new_line(indent);
    out += '}';
  } else if (const auto* text = std::get_if<std::string>(&value_)) {
    out += JsonQuoted(*text);
  } else if (const auto* integer = std::get_if<int64_t>(&value_)) {
    absl::StrAppend(&out, *integer);
  } else if (const auto* number = std::get_if<double>(&value_)) {
    out += Number(*number);
  } else if (const auto* boolean = std::get_if<bool>(&value_)) {
    out += *boolean ? "true" : "false";
  } else {
    out += "null";
  }
}

void Json::WriteYaml(std::string& out, int indent) const {
  const std::string margin(static_cast<size_t>(indent) * 2, ' ');
  if (const auto* elements = std::get_if<Elements>(&value_);
      elements != nullptr && !elements->empty()) {
    for (const Json& element : *elements) {
      std::string text;
      element.WriteYaml(text, indent + 1);
      // The first line of the element stands behind its dash.
      absl::StrAppend(&out, margin, "- ",
                      absl::StripLeadingAsciiWhitespace(text));
      if (out.back() != '\n') out += '\n';
    }
  } else if (const auto* members = std::get_if<Members>(&value_);
             members != nullptr && !members->empty()) {
    for (const auto& [name, value] : *members) {
      std::string text;
      value.WriteYaml(text, indent + 1);
      const bool block = !text.empty() && text.back() == '\n';
      absl::StrAppend(&out, margin, YamlKey(name), block ? ":\n" : ": ", text);
      if (!block) out += '\n';
    }
  } else if (const auto* string = std::get_if<std::string>(&value_)) {
    out += IsPlainYaml(*string) ? *string : JsonQuoted(*string);
  } else {
    Write(out, -1);
  }
}

std::string JsonQuoted(absl::string_view text) {
  std::string out = "\"";
  while (!text.empty()) {
    const char c = text[0];
    const auto byte = static_cast<unsigned char>(c);
    const size_t length = SequenceLength(text);
    if (length == 0) {
      out += "\xef\xbf\xbd";
      text.remove_prefix(1);
      continue;
    }
    if (c == '"' || c == '\\') {
      out += '\\';
      out += c;
    } else if (c == '\n') {
      out += "\\n";
    } else if (c == '\t') {
      out += "\\t";
    } else if (byte < 0x20 || byte == 0x7f) {
      absl::StrAppendFormat(&out, "\\u%04x", byte);
    } else {
      absl::StrAppend(&out, text.substr(0, length));
    }
    text.remove_prefix(length);
  }
  return out + '"';
}

Json FromProto(const Message& message) {
  const google::protobuf::Descriptor& type = *message.GetDescriptor();
  if (type.full_name() == "google.protobuf.Timestamp") {
    return FromTimestamp(message);
  }
  if (type.full_name() == "google.protobuf.Duration") {
    return FromDuration(message);
  }
  if (type.full_name() == "google.rpc.Status") return FromStatus(message);

  const Reflection& reflection = *message.GetReflection();
  Json json = Json::Object();
  for (int i = 0; i < type.field_count(); ++i) {
    const FieldDescriptor& field = *type.field(i);
    if (field.is_map()) {
      Json map = Json::Object();
      for (int j = 0; j < reflection.FieldSize(message, &field); ++j) {
        const Message& entry =
            reflection.GetRepeatedMessage(message, &field, j);
        const auto& entry_type = *entry.GetDescriptor();
        map.Set(entry.GetReflection()->GetString(entry, entry_type.field(0)),
                FromField(entry, *entry_type.field(1), -1));
      }
      json.Set(field.json_name(), std::move(map));
    } else if (field.is_repeated()) {
      Json list = Json::Array();
      for (int j = 0; j < reflection.FieldSize(message, &field); ++j) {
        list.Add(FromField(message, field, j));
      }
      json.Set(field.json_name(), std::move(list));
    } else if (!field.has_presence() || reflection.HasField(message, &field)) {
      json.Set(field.json_name(), FromField(message, field, -1));
    }
  }
  return json;
}

}  // namespace mycelium::meshctl
