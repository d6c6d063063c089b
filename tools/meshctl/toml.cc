#include "tools/meshctl/toml.h"

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/strip.h"
#include "lib/base/ids.h"
#include "lib/base/status_macros.h"
#include "tools/meshctl/failure.h"

namespace mycelium::meshctl {
namespace {

using spore::JsonValue;

constexpr int kMaxDepth = 16;
constexpr size_t kMaxBytes = size_t{1} << 20;

// A table or a value under construction. JsonValue sorts and hides its members,
// so the tree is built from these and turned into one at the end.
struct Node {
  enum class Kind { kTable, kTableArray, kValue };

  Kind kind = Kind::kTable;
  // Whether it may not be extended: an inline table, or one whose header was
  // seen.
  bool closed = false;
  std::map<std::string, std::unique_ptr<Node>> members;
  std::vector<std::unique_ptr<Node>> tables;
  JsonValue value;
};

JsonValue ToJson(const Node& node) {
  switch (node.kind) {
    case Node::Kind::kValue:
      return node.value;
    case Node::Kind::kTableArray: {
      JsonValue::Array array;
      for (const auto& table : node.tables) array.push_back(ToJson(*table));
      return array;
    }
    case Node::Kind::kTable:
      break;
  }
  JsonValue object = JsonValue::MakeObject();
  for (const auto& [name, member] : node.members) {
    object.Set(name, ToJson(*member));
  }
  return object;
}

void AppendUtf8(std::string& out, uint32_t code) {
  const auto byte = [&out](uint32_t value) {
    out += static_cast<char>(static_cast<unsigned char>(value));
  };
  if (code < 0x80) {
    byte(code);
  } else if (code < 0x800) {
    byte(0xc0U | (code >> 6U));
    byte(0x80U | (code & 0x3fU));
  } else if (code < 0x10000) {
    byte(0xe0U | (code >> 12U));
    byte(0x80U | ((code >> 6U) & 0x3fU));
    byte(0x80U | (code & 0x3fU));
  } else {
    byte(0xf0U | (code >> 18U));
    byte(0x80U | ((code >> 12U) & 0x3fU));
    byte(0x80U | ((code >> 6U) & 0x3fU));
    byte(0x80U | (code & 0x3fU));
  }
}

class TomlReader {
 public:
  explicit TomlReader(absl::string_view text) : text_(text) {}

  absl::StatusOr<JsonValue> Read() {
    if (text_.size() > kMaxBytes) return Wrong("is longer than 1 MiB");
    Node* table = &root_;
    while (SkipBlank(), !text_.empty()) {
      if (absl::StartsWith(text_, "[[")) {
        Advance(2);
        MYC_ASSIGN_OR_RETURN(const std::vector<std::string> path, ReadKey());
        if (!Consume("]]")) return Wrong("expected ']]'");
        MYC_ASSIGN_OR_RETURN(table, AppendTable(path));
      } else if (absl::StartsWith(text_, "[")) {
        Advance(1);
        MYC_ASSIGN_OR_RETURN(const std::vector<std::string> path, ReadKey());
        if (!Consume("]")) return Wrong("expected ']'");
        MYC_ASSIGN_OR_RETURN(table, OpenTable(path));
      } else {
        MYC_RETURN_IF_ERROR(ReadMember(*table, 0));
      }
      MYC_RETURN_IF_ERROR(EndLine());
    }
    return ToJson(root_);
  }

 private:
  absl::Status Wrong(absl::string_view what) const {
    return UsageError(absl::StrCat("line ", line_, ": ", what));
  }

  void Advance(size_t count) {
    for (const char c : text_.substr(0, count)) line_ += c == '\n' ? 1 : 0;
    text_.remove_prefix(count);
  }

  bool Consume(absl::string_view token) {
    SkipSpace();
    if (!absl::StartsWith(text_, token)) return false;
    Advance(token.size());
    return true;
  }

  void SkipSpace() {
    while (!text_.empty() && (text_[0] == ' ' || text_[0] == '\t')) Advance(1);
  }

  // Space, comments and ends of lines.
  void SkipBlank() {
    while (!text_.empty()) {
      if (text_[0] == '#') {
        Advance(std::min(text_.find('\n'), text_.size()));
      } else if (absl::ascii_isspace(static_cast<unsigned char>(text_[0]))) {
        Advance(1);
      } else {
        return;
      }
    }
  }

  absl::Status EndLine() {
    SkipSpace();
    if (!text_.empty() && text_[0] == '#') {
      Advance(std::min(text_.find('\n'), text_.size()));
    }
    if (!text_.empty() && text_[0] == '\r') Advance(1);
    if (text_.empty() || text_[0] == '\n') return absl::OkStatus();
    return Wrong(
        absl::StrCat("unexpected ", Quoted(text_.substr(0, text_.find('\n')))));
  }

  absl::StatusOr<std::vector<std::string>> ReadKey() {
    std::vector<std::string> path;
    do {
      SkipSpace();
      if (!text_.empty() && (text_[0] == '"' || text_[0] == '\'')) {
        MYC_ASSIGN_OR_RETURN(std::string part, ReadString());
        path.push_back(std::move(part));
        continue;
      }
      size_t length = 0;
      while (length < text_.size() &&
             (absl::ascii_isalnum(static_cast<unsigned char>(text_[length])) ||
              text_[length] == '_' || text_[length] == '-')) {
        ++length;
      }
      if (length == 0) return Wrong("expected a name");
      path.emplace_back(text_.substr(0, length));
      Advance(length);
      if (path.size() > kMaxDepth) return Wrong("the name is nested too deep");
    } while (Consume("."));
    return path;
  }

  absl::StatusOr<std::string> ReadString() {
    const char quote = text_[0];
    if (absl::StartsWith(text_, std::string(3, quote))) {
      return Wrong("strings of several lines are not understood");
    }
    Advance(1);
    std::string value;
    while (true) {
      if (text_.empty() || text_[0] == '\n') {
        return Wrong("the string is not closed");
      }
      const char c = text_[0];
      Advance(1);
      if (c == quote) return value;
      if (c != '\\' || quote == '\'') {
        value += c;
        continue;
      }
      MYC_RETURN_IF_ERROR(ReadEscape(value));
    }
  }

  absl::Status ReadEscape(std::string& value) {
    if (text_.empty()) return Wrong("the string is not closed");
    const char c = text_[0];
    Advance(1);
    constexpr absl::string_view kNames = "btnfr\"\\e";
    constexpr absl::string_view kValues = "\b\t\n\f\r\"\\\x1b";
    if (const size_t at = kNames.find(c); at != absl::string_view::npos) {
      value += kValues[at];
      return absl::OkStatus();
    }
    const size_t digits = c == 'u' ? 4 : 8;
    uint32_t code = 0;
    if ((c != 'u' && c != 'U') ||
        !absl::SimpleHexAtoi(text_.substr(0, digits), &code) ||
        text_.size() < digits || code > 0x10ffff ||
        (code >= 0xd800 && code <= 0xdfff)) {
      return Wrong("unknown escape in a string");
    }
    Advance(digits);
    AppendUtf8(value, code);
    return absl::OkStatus();
  }

  absl::StatusOr<std::unique_ptr<Node>> ReadValue(int depth) {
    SkipSpace();
    if (depth > kMaxDepth) return Wrong("the value is nested too deep");
    if (text_.empty()) return Wrong("expected a value");
    auto node = std::make_unique<Node>();
    node->kind = Node::Kind::kValue;
    node->closed = true;
    if (text_[0] == '"' || text_[0] == '\'') {
      MYC_ASSIGN_OR_RETURN(std::string value, ReadString());
      node->value = JsonValue(std::move(value));
    } else if (text_[0] == '[') {
      MYC_ASSIGN_OR_RETURN(node->value, ReadArray(depth));
    } else if (text_[0] == '{') {
      MYC_ASSIGN_OR_RETURN(node, ReadInlineTable(depth));
    } else {
      MYC_ASSIGN_OR_RETURN(node->value, ReadScalar());
    }
    return node;
  }

  absl::StatusOr<JsonValue> ReadArray(int depth) {
    Advance(1);
    JsonValue::Array array;
    while (true) {
      SkipBlank();
      if (Consume("]")) return JsonValue(std::move(array));
      MYC_ASSIGN_OR_RETURN(const std::unique_ptr<Node> element,
                           ReadValue(depth + 1));
      array.push_back(ToJson(*element));
      SkipBlank();
      if (Consume(",")) continue;
      if (!Consume("]")) return Wrong("expected ',' or ']'");
      return JsonValue(std::move(array));
    }
  }

  absl::StatusOr<std::unique_ptr<Node>> ReadInlineTable(int depth) {
    Advance(1);
    auto table = std::make_unique<Node>();
    if (!Consume("}")) {
      do {
        MYC_RETURN_IF_ERROR(ReadMember(*table, depth + 1));
      } while (Consume(","));
      if (!Consume("}")) return Wrong("expected ',' or '}'");
    }
    table->closed = true;
    return table;
  }

  absl::StatusOr<JsonValue> ReadScalar() {
    size_t length = 0;
    while (length < text_.size() &&
           !absl::StrContains(" \t\r\n,]}#", text_[length])) {
      ++length;
    }
    const std::string word(text_.substr(0, length));
    Advance(length);
    if (word == "true") return JsonValue(true);
    if (word == "false") return JsonValue(false);
    const std::string digits = absl::StrReplaceAll(word, {{"_", ""}});
    int64_t integer = 0;
    if (absl::SimpleAtoi(digits, &integer)) return JsonValue(integer);
    absl::string_view hex = digits;
    if (absl::ConsumePrefix(&hex, "0x") && absl::SimpleHexAtoi(hex, &integer)) {
      return JsonValue(integer);
    }
    double number = 0;
    if (!word.empty() &&
        (absl::ascii_isdigit(static_cast<unsigned char>(word[0])) ||
         word[0] == '-' || word[0] == '+') &&
        absl::SimpleAtod(digits, &number)) {
      return JsonValue(number);
    }
    return Wrong(
        absl::StrCat(Quoted(word), " is no value; strings stand in quotes"));
  }

  absl::Status ReadMember(Node& table, int depth) {
    MYC_ASSIGN_OR_RETURN(std::vector<std::string> path, ReadKey());
    if (!Consume("=")) {
      return Wrong(absl::StrCat("expected '=' behind ", Quoted(path.back())));
    }
    MYC_ASSIGN_OR_RETURN(std::unique_ptr<Node> value, ReadValue(depth));
    const std::string name = std::move(path.back());
    path.pop_back();
    Node* parent = &table;
    for (const std::string& part : path) {
      std::unique_ptr<Node>& child = parent->members[part];
      if (child == nullptr) child = std::make_unique<Node>();
      if (child->kind != Node::Kind::kTable || child->closed) {
        return Wrong(absl::StrCat(Quoted(part), " is no table to add to"));
      }
      parent = child.get();
    }
    if (!parent->members.emplace(name, std::move(value)).second) {
      return Wrong(absl::StrCat(Quoted(name), " is there twice"));
    }
    return absl::OkStatus();
  }

  // The table that holds the last part of `path`.
  absl::StatusOr<Node*> Parent(const std::vector<std::string>& path) {
    Node* parent = &root_;
    for (size_t i = 0; i + 1 < path.size(); ++i) {
      std::unique_ptr<Node>& child = parent->members[path[i]];
      if (child == nullptr) child = std::make_unique<Node>();
      parent = child->kind == Node::Kind::kTableArray
                   ? child->tables.back().get()
                   : child.get();
      if (parent->kind != Node::Kind::kTable) {
        return Wrong(absl::StrCat(Quoted(path[i]), " is no table"));
      }
    }
    return parent;
  }

  absl::StatusOr<Node*> OpenTable(const std::vector<std::string>& path) {
    MYC_ASSIGN_OR_RETURN(Node* const parent, Parent(path));
    std::unique_ptr<Node>& child = parent->members[path.back()];
    if (child == nullptr) child = std::make_unique<Node>();
    if (child->kind != Node::Kind::kTable || child->closed) {
      return Wrong(absl::StrCat(Quoted(path.back()), " is there twice"));
    }
    child->closed = true;
    return child.get();
  }

  absl::StatusOr<Node*> AppendTable(const std::vector<std::string>& path) {
    MYC_ASSIGN_OR_RETURN(Node* const parent, Parent(path));
    std::unique_ptr<Node>& child = parent->members[path.back()];
    if (child == nullptr) {
      child = std::make_unique<Node>();
      child->kind = Node::Kind::kTableArray;
    }
    if (child->kind != Node::Kind::kTableArray) {
      return Wrong(absl::StrCat(Quoted(path.back()), " is there twice"));
    }
    child->tables.push_back(std::make_unique<Node>());
    return child->tables.back().get();
  }

  absl::string_view text_;
  int line_ = 1;
  Node root_;
};

}  // namespace

absl::StatusOr<spore::JsonValue> ParseToml(absl::string_view text) {
  return TomlReader(text).Read();
}

}  // namespace mycelium::meshctl
