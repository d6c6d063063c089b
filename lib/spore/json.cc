#include "lib/spore/json.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <cstring>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "lib/base/ids.h"
#include "lib/base/status_macros.h"
#include "lib/spore/refusal.h"

namespace mycelium::spore {
namespace {

// 2^53 - 1: the largest integer that no two spellings of which are one double.
constexpr double kMaxNumber = 9007199254740991.0;

struct OrderByName {
  bool operator()(const JsonValue::Object::value_type& member,
                  absl::string_view name) const {
    return member.first < name;
  }
};

// The code point at the front of `text` and the bytes it takes; 0 bytes if
// there is no well-formed one (overlong, surrogate, beyond U+10FFFF, cut off).
struct CodePoint {
  uint32_t value = 0;
  size_t bytes = 0;
};

CodePoint DecodeUtf8(absl::string_view text) {
  const auto byte = [&](size_t i) {
    return static_cast<uint32_t>(static_cast<unsigned char>(text[i]));
  };
  const auto continues = [&](size_t i) {
    return i < text.size() && (byte(i) & 0xc0) == 0x80;
  };
  const uint32_t first = byte(0);
  if (first < 0x80) return {first, 1};
  if (first >= 0xc2 && first <= 0xdf && continues(1)) {
    return {(first & 0x1f) << 6 | (byte(1) & 0x3f), 2};
  }
  if ((first & 0xf0) == 0xe0 && continues(1) && continues(2)) {
    const uint32_t value =
        (first & 0x0f) << 12 | (byte(1) & 0x3f) << 6 | (byte(2) & 0x3f);
    const bool surrogate = value >= 0xd800 && value <= 0xdfff;
    if (value >= 0x800 && !surrogate) return {value, 3};
  }
  if (first >= 0xf0 && first <= 0xf4 && continues(1) && continues(2) &&
      continues(3)) {
    const uint32_t value = (first & 0x07) << 18 | (byte(1) & 0x3f) << 12 |
                           (byte(2) & 0x3f) << 6 | (byte(3) & 0x3f);
    if (value >= 0x10000 && value <= 0x10ffff) return {value, 4};
  }
  return {};
}

void AppendUtf8(uint32_t value, std::string& out) {
  const auto put = [&](uint32_t byte) {
    out.push_back(static_cast<char>(static_cast<unsigned char>(byte)));
  };
  if (value < 0x80) {
    put(value);
  } else if (value < 0x800) {
    put(0xc0 | value >> 6);
    put(0x80 | (value & 0x3f));
  } else if (value < 0x10000) {
    put(0xe0 | value >> 12);
    put(0x80 | (value >> 6 & 0x3f));
    put(0x80 | (value & 0x3f));
  } else {
    put(0xf0 | value >> 18);
    put(0x80 | (value >> 12 & 0x3f));
    put(0x80 | (value >> 6 & 0x3f));
    put(0x80 | (value & 0x3f));
  }
}

bool IsNoncharacter(uint32_t value) {
  return (value >= 0xfdd0 && value <= 0xfdef) || (value & 0xfffe) == 0xfffe;
}

}  // namespace

JsonValue JsonValue::MakeObject() {
  JsonValue value;
  value.value_ = Object();
  return value;
}

bool JsonValue::is_null() const {
  return std::holds_alternative<std::monostate>(value_);
}
bool JsonValue::is_bool() const { return std::holds_alternative<bool>(value_); }
bool JsonValue::is_number() const {
  return std::holds_alternative<double>(value_);
}
bool JsonValue::is_string() const {
  return std::holds_alternative<std::string>(value_);
}
bool JsonValue::is_array() const {
  return std::holds_alternative<Array>(value_);
}
bool JsonValue::is_object() const {
  return std::holds_alternative<Object>(value_);
}
bool JsonValue::boolean() const { return std::get<bool>(value_); }
double JsonValue::number() const { return std::get<double>(value_); }
const std::string& JsonValue::string() const {
  return std::get<std::string>(value_);
}
const JsonValue::Array& JsonValue::array() const {
  return std::get<Array>(value_);
}
const JsonValue::Object& JsonValue::object() const {
  return std::get<Object>(value_);
}

std::optional<int64_t> JsonValue::integer() const {
  if (!is_number()) return std::nullopt;
  const double value = number();
  if (std::abs(value) > kMaxNumber || std::trunc(value) != value) {
    return std::nullopt;
  }
  return static_cast<int64_t>(value);
}

absl::string_view JsonValue::type_name() const {
  static constexpr std::array<absl::string_view, 6> kNames = {
      "null", "a boolean", "a number", "a string", "an array", "an object"};
  return kNames.at(value_.index());
}

const JsonValue* JsonValue::Find(absl::string_view name) const {
  const Object* object = std::get_if<Object>(&value_);
  if (object == nullptr) return nullptr;
  const auto found =
      std::lower_bound(object->begin(), object->end(), name, OrderByName());
  return found != object->end() && found->first == name ? &found->second
                                                        : nullptr;
}

void JsonValue::Set(absl::string_view name, JsonValue value) {
  Object& object = std::get<Object>(value_);
  const auto found =
      std::lower_bound(object.begin(), object.end(), name, OrderByName());
  if (found != object.end() && found->first == name) {
    found->second = std::move(value);
  } else {
    object.emplace(found, std::string(name), std::move(value));
  }
}

void JsonValue::Remove(absl::string_view name) {
  Object& object = std::get<Object>(value_);
  const auto found =
      std::lower_bound(object.begin(), object.end(), name, OrderByName());
  if (found != object.end() && found->first == name) object.erase(found);
}

// A recursive-descent reader; its recursion is bounded by JsonLimits.
class JsonReader {
 public:
  JsonReader(absl::string_view text, const JsonLimits& limits)
      : text_(text), limits_(limits) {}

  absl::StatusOr<JsonValue> Read() {
    if (text_.size() > limits_.max_bytes) {
      return Refuse("E_JSON", absl::StrCat("the JSON text has ", text_.size(),
                                           " bytes; at most ",
                                           limits_.max_bytes, " are allowed"));
    }
    JsonValue value;
    SkipSpace();
    MYC_RETURN_IF_ERROR(ReadValue(1, value));
    SkipSpace();
    if (!AtEnd()) return Fail("there is text after the value");
    return value;
  }

 private:
  bool AtEnd() const { return position_ == text_.size(); }
  char Peek() const { return AtEnd() ? '\0' : text_[position_]; }

  bool Take(char c) {
    if (AtEnd() || text_[position_] != c) return false;
    ++position_;
    return true;
  }

  void SkipSpace() {
    while (!AtEnd() && (Peek() == ' ' || Peek() == '\t' || Peek() == '\n' ||
                        Peek() == '\r')) {
      ++position_;
    }
  }

  absl::Status Fail(absl::string_view what) const {
    const absl::string_view before = text_.substr(0, position_);
    const auto line = 1 + std::count(before.begin(), before.end(), '\n');
    const size_t newline = before.rfind('\n');
    const size_t column = newline == absl::string_view::npos
                              ? position_
                              : position_ - newline - 1;
    return Refuse("E_JSON", absl::StrCat("not strict JSON at line ", line,
                                         ", byte ", column + 1, ": ", what));
  }

  absl::Status ReadValue(int depth, JsonValue& value) {
    if (++values_ > limits_.max_values) {
      return Fail(absl::StrCat("more than ", limits_.max_values, " values"));
    }
    switch (Peek()) {
      case '{':
        return ReadObject(depth, value);
      case '[':
        return ReadArray(depth, value);
      case '"': {
        std::string string;
        MYC_RETURN_IF_ERROR(ReadString(string));
        value = JsonValue(std::move(string));
        return absl::OkStatus();
      }
      case 't':
        value = JsonValue(true);
        return ReadWord("true");
      case 'f':
        value = JsonValue(false);
        return ReadWord("false");
      case 'n':
        value = JsonValue();
        return ReadWord("null");
      default:
        return ReadNumber(value);
    }
  }

  absl::Status ReadWord(absl::string_view word) {
    if (text_.substr(position_, word.size()) != word) {
      return Fail("a value must come here");
    }
    position_ += word.size();
    return absl::OkStatus();
  }

  absl::Status CheckDepth(int depth) const {
    if (depth <= limits_.max_depth) return absl::OkStatus();
    return Fail(
        absl::StrCat("nested deeper than ", limits_.max_depth, " levels"));
  }

  absl::Status ReadArray(int depth, JsonValue& value) {
    MYC_RETURN_IF_ERROR(CheckDepth(depth));
    ++position_;
    JsonValue::Array array;
    SkipSpace();
    if (!Take(']')) {
      while (true) {
        SkipSpace();
        MYC_RETURN_IF_ERROR(ReadValue(depth + 1, array.emplace_back()));
        SkipSpace();
        if (Take(']')) break;
        if (!Take(',')) return Fail("',' or ']' must come here");
      }
    }
    value = JsonValue(std::move(array));
    return absl::OkStatus();
  }

  absl::Status ReadObject(int depth, JsonValue& value) {
    MYC_RETURN_IF_ERROR(CheckDepth(depth));
    ++position_;
    JsonValue::Object object;
    SkipSpace();
    if (!Take('}')) {
      while (true) {
        SkipSpace();
        auto& [name, member] = object.emplace_back();
        if (Peek() != '"') return Fail("a member name must come here");
        MYC_RETURN_IF_ERROR(ReadString(name));
        SkipSpace();
        if (!Take(':')) return Fail("':' must come here");
        SkipSpace();
        MYC_RETURN_IF_ERROR(ReadValue(depth + 1, member));
        SkipSpace();
        if (Take('}')) break;
        if (!Take(',')) return Fail("',' or '}' must come here");
      }
    }
    std::sort(object.begin(), object.end(),
              [](const auto& a, const auto& b) { return a.first < b.first; });
    const auto twin = std::adjacent_find(
        object.begin(), object.end(),
        [](const auto& a, const auto& b) { return a.first == b.first; });
    if (twin != object.end()) {
      return Fail(absl::StrCat("this object has the member ",
                               Quoted(twin->first), " twice"));
    }
    value.value_ = std::move(object);
    return absl::OkStatus();
  }

  absl::Status ReadString(std::string& out) {
    ++position_;
    while (true) {
      if (AtEnd()) return Fail("the string does not end");
      const auto byte = static_cast<unsigned char>(Peek());
      if (byte == '"') {
        ++position_;
        return absl::OkStatus();
      }
      if (byte < 0x20) return Fail("a control character must be escaped");
      if (byte == '\\') {
        ++position_;
        MYC_RETURN_IF_ERROR(ReadEscape(out));
        continue;
      }
      const CodePoint code_point = DecodeUtf8(text_.substr(position_));
      if (code_point.bytes == 0) return Fail("not UTF-8");
      if (IsNoncharacter(code_point.value)) {
        return Fail("a noncharacter is not allowed");
      }
      absl::StrAppend(&out, text_.substr(position_, code_point.bytes));
      position_ += code_point.bytes;
    }
  }

  absl::Status ReadEscape(std::string& out) {
    const char escape = Peek();
    ++position_;
    switch (escape) {
      case '"':
      case '\\':
      case '/':
        out.push_back(escape);
        return absl::OkStatus();
      case 'b':
        out.push_back('\b');
        return absl::OkStatus();
      case 'f':
        out.push_back('\f');
        return absl::OkStatus();
      case 'n':
        out.push_back('\n');
        return absl::OkStatus();
      case 'r':
        out.push_back('\r');
        return absl::OkStatus();
      case 't':
        out.push_back('\t');
        return absl::OkStatus();
      case 'u':
        return ReadUnicodeEscape(out);
      default:
        --position_;
        return Fail("no such escape");
    }
  }

  absl::Status ReadUnicodeEscape(std::string& out) {
    uint32_t value = 0;
    if (!ReadHex4(value)) return Fail("\\u needs four hex digits");
    if (value >= 0xdc00 && value <= 0xdfff) return Fail("a lone surrogate");
    if (value >= 0xd800 && value <= 0xdbff) {
      uint32_t low = 0;
      if (!Take('\\') || !Take('u') || !ReadHex4(low) || low < 0xdc00 ||
          low > 0xdfff) {
        return Fail("a lone surrogate");
      }
      value = 0x10000 + ((value - 0xd800) << 10) + (low - 0xdc00);
    }
    if (IsNoncharacter(value)) return Fail("a noncharacter is not allowed");
    AppendUtf8(value, out);
    return absl::OkStatus();
  }

  bool ReadHex4(uint32_t& value) {
    value = 0;
    for (int i = 0; i < 4; ++i) {
      const auto c = static_cast<unsigned char>(Peek());
      if (!absl::ascii_isxdigit(c)) return false;
      const int digit =
          absl::ascii_isdigit(c) ? c - '0' : absl::ascii_tolower(c) - 'a' + 10;
      value = value << 4 | static_cast<uint32_t>(digit);
      ++position_;
    }
    return true;
  }

  size_t TakeDigits() {
    size_t digits = 0;
    while (absl::ascii_isdigit(static_cast<unsigned char>(Peek()))) {
      ++position_;
      ++digits;
    }
    return digits;
  }

  absl::Status ReadNumber(JsonValue& value) {
    const size_t begin = position_;
    Take('-');
    const bool leading_zero = Peek() == '0';
    const size_t digits = TakeDigits();
    if (digits == 0) {
      position_ = begin;
      return Fail("a value must come here");
    }
    if (leading_zero && digits > 1) return Fail("a number has a leading zero");
    if (Take('.') && TakeDigits() == 0) {
      return Fail("a number ends in its decimal point");
    }
    if (Peek() == 'e' || Peek() == 'E') {
      ++position_;
      if (!Take('+')) Take('-');
      if (TakeDigits() == 0) return Fail("a number has an empty exponent");
    }
    const absl::string_view token = text_.substr(begin, position_ - begin);
    double number = 0;
    const auto [end, error] =
        std::from_chars(token.data(), token.data() + token.size(), number);
    if (error == std::errc::result_out_of_range) {
      // from_chars says so for what is too large and for what is too small.
      number = IsBelowOne(token) ? 0 : HUGE_VAL;
    }
    if (!(std::abs(number) <= kMaxNumber)) {
      return Fail("a number is beyond ±(2^53 - 1)");
    }
    value = JsonValue(number);
    return absl::OkStatus();
  }

  // Whether a number that no double holds is too small rather than too large:
  // whether its leading digit stands for a power of ten below 1.
  static bool IsBelowOne(absl::string_view token);

  const absl::string_view text_;
  const JsonLimits& limits_;
  size_t position_ = 0;
  int values_ = 0;
};

bool JsonReader::IsBelowOne(absl::string_view token) {
  if (token.front() == '-') token.remove_prefix(1);
  const size_t e = token.find_first_of("eE");
  const absl::string_view mantissa = token.substr(0, e);
  // Exponents beyond any text's length are clamped: only the sign of the sum
  // below matters.
  constexpr int64_t kMaxExponent = int64_t{1} << 40;
  int64_t exponent = 0;
  if (e != absl::string_view::npos) {
    absl::string_view digits = token.substr(e + 1);
    const bool negative = digits.front() == '-';
    if (negative || digits.front() == '+') digits.remove_prefix(1);
    for (const char digit : digits) {
      exponent = std::min(kMaxExponent, exponent * 10 + (digit - '0'));
    }
    if (negative) exponent = -exponent;
  }
  const size_t point = std::min(mantissa.find('.'), mantissa.size());
  const size_t leading = mantissa.find_first_of("123456789");
  if (leading == absl::string_view::npos) return true;
  // Position of the leading digit before (positive) or after the point.
  const int64_t place =
      leading < point
          ? static_cast<int64_t>(point - leading) - 1
          : static_cast<int64_t>(point) - static_cast<int64_t>(leading);
  return place + exponent < 0;
}

absl::StatusOr<JsonValue> ParseJson(absl::string_view text,
                                    const JsonLimits& limits) {
  return JsonReader(text, limits).Read();
}

std::string FormatNumber(double value) {
  if (value == 0) return "0";  // -0 too.
  // The shortest digits that read back as the value, as d.ddde±XX.
  std::array<char, 40> buffer;
  const auto [end, error] =
      std::to_chars(buffer.data(), buffer.data() + buffer.size(), value,
                    std::chars_format::scientific);
  absl::string_view text(buffer.data(),
                         static_cast<size_t>(end - buffer.data()));
  const bool negative = text.front() == '-';
  if (negative) text.remove_prefix(1);
  const size_t e = text.find('e');
  std::string digits;
  for (const char c : text.substr(0, e)) {
    if (c != '.') digits.push_back(c);
  }
  int exponent = 0;
  absl::string_view exponent_text = text.substr(e + 1);
  if (exponent_text.front() == '+') exponent_text.remove_prefix(1);
  std::from_chars(exponent_text.data(),
                  exponent_text.data() + exponent_text.size(), exponent);

  // ECMA-262, Number::toString: the value is 0.digits times 10^n.
  const int k = static_cast<int>(digits.size());
  const int n = exponent + 1;
  std::string out = negative ? "-" : "";
  if (k <= n && n <= 21) {
    absl::StrAppend(&out, digits, std::string(static_cast<size_t>(n - k), '0'));
  } else if (0 < n && n <= 21) {
    absl::StrAppend(&out, digits.substr(0, static_cast<size_t>(n)), ".",
                    digits.substr(static_cast<size_t>(n)));
  } else if (-6 < n && n <= 0) {
    absl::StrAppend(&out, "0.", std::string(static_cast<size_t>(-n), '0'),
                    digits);
  } else {
    absl::StrAppend(&out, digits.substr(0, 1));
    if (k > 1) absl::StrAppend(&out, ".", digits.substr(1));
    absl::StrAppend(&out, "e", n - 1 < 0 ? "-" : "+", std::abs(n - 1));
  }
  return out;
}

namespace {

void AppendString(absl::string_view text, std::string& out) {
  out.push_back('"');
  for (const char c : text) {
    switch (c) {
      case '"':
        out.append("\\\"");
        break;
      case '\\':
        out.append("\\\\");
        break;
      case '\b':
        out.append("\\b");
        break;
      case '\f':
        out.append("\\f");
        break;
      case '\n':
        out.append("\\n");
        break;
      case '\r':
        out.append("\\r");
        break;
      case '\t':
        out.append("\\t");
        break;
      default:
        if (static_cast<unsigned char>(c) < 0x20) {
          absl::StrAppendFormat(&out, "\\u%04x", static_cast<unsigned>(c));
        } else {
          out.push_back(c);
        }
    }
  }
  out.push_back('"');
}

// Whether `a` comes before `b` by UTF-16 code units. Both are valid UTF-8,
// whose byte order is the order of code points; the two differ only where one
// has a surrogate pair (U+10000 and up) and the other U+E000..U+FFFF.
bool LessByUtf16(absl::string_view a, absl::string_view b) {
  const auto [in_a, in_b] =
      std::mismatch(a.begin(), a.end(), b.begin(), b.end());
  if (in_b == b.end()) return false;
  if (in_a == a.end()) return true;
  const auto byte_a = static_cast<unsigned char>(*in_a);
  const auto byte_b = static_cast<unsigned char>(*in_b);
  // A first byte of 0xf0 and up begins a pair, whose first unit is 0xd8xx; 0xee
  // and 0xef begin U+E000..U+FFFF.
  const bool pair_a = byte_a >= 0xf0;
  const bool pair_b = byte_b >= 0xf0;
  if (pair_a != pair_b) {
    if (pair_a && byte_b >= 0xee) return true;
    if (pair_b && byte_a >= 0xee) return false;
  }
  return byte_a < byte_b;
}

// The members in canonical order.
std::vector<const JsonValue::Object::value_type*> Sorted(
    const JsonValue::Object& object) {
  std::vector<const JsonValue::Object::value_type*> members;
  members.reserve(object.size());
  for (const auto& member : object) members.push_back(&member);
  std::sort(members.begin(), members.end(), [](const auto* a, const auto* b) {
    return LessByUtf16(a->first, b->first);
  });
  return members;
}

void AppendScalar(const JsonValue& value, std::string& out) {
  if (value.is_null()) {
    out.append("null");
  } else if (value.is_bool()) {
    out.append(value.boolean() ? "true" : "false");
  } else if (value.is_number()) {
    out.append(FormatNumber(value.number()));
  } else {
    AppendString(value.string(), out);
  }
}

void AppendCanonical(const JsonValue& value, std::string& out) {
  if (value.is_array()) {
    out.push_back('[');
    bool first = true;
    for (const JsonValue& element : value.array()) {
      if (!first) out.push_back(',');
      first = false;
      AppendCanonical(element, out);
    }
    out.push_back(']');
  } else if (value.is_object()) {
    out.push_back('{');
    bool first = true;
    for (const auto* member : Sorted(value.object())) {
      if (!first) out.push_back(',');
      first = false;
      AppendString(member->first, out);
      out.push_back(':');
      AppendCanonical(member->second, out);
    }
    out.push_back('}');
  } else {
    AppendScalar(value, out);
  }
}

void AppendPretty(const JsonValue& value, size_t indent, std::string& out) {
  const std::string newline = absl::StrCat("\n", std::string(indent + 1, ' '));
  if (value.is_array() && !value.array().empty()) {
    out.push_back('[');
    bool first = true;
    for (const JsonValue& element : value.array()) {
      absl::StrAppend(&out, first ? "" : ",", newline);
      first = false;
      AppendPretty(element, indent + 1, out);
    }
    absl::StrAppend(&out, "\n", std::string(indent, ' '), "]");
  } else if (value.is_object() && !value.object().empty()) {
    out.push_back('{');
    bool first = true;
    for (const auto* member : Sorted(value.object())) {
      absl::StrAppend(&out, first ? "" : ",", newline);
      first = false;
      AppendString(member->first, out);
      out.append(": ");
      AppendPretty(member->second, indent + 1, out);
    }
    absl::StrAppend(&out, "\n", std::string(indent, ' '), "}");
  } else {
    AppendCanonical(value, out);
  }
}

}  // namespace

std::string Canonicalize(const JsonValue& value) {
  std::string out;
  AppendCanonical(value, out);
  return out;
}

std::string PrettyPrint(const JsonValue& value) {
  std::string out;
  AppendPretty(value, 0, out);
  out.push_back('\n');
  return out;
}

}  // namespace mycelium::spore
