#include "tools/meshctl/parser.h"

#include <algorithm>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/strip.h"
#include "lib/base/ids.h"
#include "lib/base/status_macros.h"

namespace mycelium::meshctl {
namespace {

bool TakesValue(const Flag& flag) {
  return flag.kind != FlagKind::kSwitch && flag.kind != FlagKind::kCount;
}

// Insertions, deletions, replacements and swaps of neighbours between two
// words.
size_t EditDistance(absl::string_view a, absl::string_view b) {
  std::vector<std::vector<size_t>> cost(a.size() + 1,
                                        std::vector<size_t>(b.size() + 1));
  for (size_t i = 0; i <= a.size(); ++i) {
    for (size_t j = 0; j <= b.size(); ++j) {
      if (i == 0 || j == 0) {
        cost[i][j] = i + j;
        continue;
      }
      cost[i][j] = std::min({cost[i - 1][j] + 1, cost[i][j - 1] + 1,
                             cost[i - 1][j - 1] + (a[i - 1] != b[j - 1])});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1]) {
        cost[i][j] = std::min(cost[i][j], cost[i - 2][j - 2] + 1);
      }
    }
  }
  return cost[a.size()][b.size()];
}

const Flag* FindFlag(const std::vector<Flag>& flags, absl::string_view name) {
  // The services spell their flags with underscores; either is understood.
  const std::string dashed = absl::StrReplaceAll(name, {{"_", "-"}});
  for (const Flag& flag : flags) {
    if (flag.name == dashed ||
        std::find(flag.aliases.begin(), flag.aliases.end(), dashed) !=
            flag.aliases.end()) {
      return &flag;
    }
  }
  return nullptr;
}

const Flag* FindFlag(const std::vector<Flag>& flags, char letter) {
  for (const Flag& flag : flags) {
    if (flag.letter == letter) return &flag;
  }
  return nullptr;
}

// A flag by either of its names, in the table of the command or in the global
// one.
template <typename Name>
const Flag* FindKnown(const Command* command, Name name) {
  if (command != nullptr) {
    if (const Flag* flag = FindFlag(command->flags, name)) return flag;
  }
  return FindFlag(GlobalFlags(), name);
}

std::string HelpOf(const Command* command) {
  return command == nullptr ? "meshctl help"
                            : absl::StrCat("meshctl help ", command->path);
}

absl::Status UnknownFlag(const Command* command, absl::string_view word) {
  std::vector<std::string> known;
  if (command != nullptr) {
    for (const Flag& flag : command->flags) {
      known.push_back(absl::StrCat("--", flag.name));
    }
  }
  for (const Flag& flag : GlobalFlags()) {
    known.push_back(absl::StrCat("--", flag.name));
  }
  const absl::string_view name = word.substr(0, word.find('='));
  std::string message = absl::StrCat("unknown flag \"", name, "\"");
  if (command != nullptr) absl::StrAppend(&message, " for ", command->path);
  if (const auto meant = DidYouMean(name, known)) {
    absl::StrAppend(&message, " — did you mean \"", *meant, "\"?");
  }
  return UsageError(message, {HelpOf(command)});
}

absl::Status UnknownCommand(absl::string_view parent, absl::string_view word) {
  std::vector<std::string> known;
  for (const Command& command : Commands()) {
    if (command.hidden) continue;
    std::vector<std::string> paths = {command.path};
    paths.insert(paths.end(), command.aliases.begin(), command.aliases.end());
    for (const std::string& path : paths) {
      absl::string_view rest = path;
      if (!parent.empty() &&
          !absl::ConsumePrefix(&rest, absl::StrCat(parent, " "))) {
        continue;
      }
      if (!absl::StrContains(rest, ' ')) known.emplace_back(rest);
    }
  }
  std::string message = absl::StrCat("unknown command \"", parent,
                                     parent.empty() ? "" : " ", word, "\"");
  if (const auto meant = DidYouMean(word, known)) {
    absl::StrAppend(&message, " — did you mean \"", parent,
                    parent.empty() ? "" : " ", *meant, "\"?");
  }
  return UsageError(message, {absl::StrCat("meshctl help",
                                           parent.empty() ? "" : " ", parent)});
}

absl::Status CheckValue(const Flag& flag, absl::string_view shown,
                        const std::string& value) {
  int64_t integer = 0;
  switch (flag.kind) {
    case FlagKind::kInteger:
      if (absl::SimpleAtoi(value, &integer)) return absl::OkStatus();
      return UsageError(
          absl::StrCat(shown, " takes a number, not ", Quoted(value)));
    case FlagKind::kDuration:
      if (ParseDurationFlag(value)) return absl::OkStatus();
      return UsageError(absl::StrCat(shown, " takes a duration such as 10s, ",
                                     "5m or 1h30m, not ", Quoted(value)));
    case FlagKind::kTime:
      if (ParseTimeFlag(value, absl::UnixEpoch())) return absl::OkStatus();
      return UsageError(
          absl::StrCat(shown, " takes a time such as 2026-02-01T00:00:00Z, or ",
                       "a duration ago such as 10m, not ", Quoted(value)));
    case FlagKind::kChoice: {
      for (const std::string& choice : flag.choices) {
        if (choice == value) return absl::OkStatus();
      }
      std::string message = absl::StrCat(shown, " takes one of ",
                                         absl::StrJoin(flag.choices, ", "),
                                         ", not ", Quoted(value));
      if (const auto meant = DidYouMean(value, flag.choices)) {
        absl::StrAppend(&message, " — did you mean \"", *meant, "\"?");
      }
      return UsageError(message);
    }
    default:
      return absl::OkStatus();
  }
}

// Reads one command line from left to right.
class Reader {
 public:
  explicit Reader(const std::vector<std::string>& words) : words_(words) {}

  absl::StatusOr<Invocation> Read() {
    for (; at_ < words_.size(); ++at_) {
      const std::string& word = words_[at_];
      if (word == "--") {
        ++at_;
        break;
      }
      if (absl::StartsWith(word, "--")) {
        MYC_RETURN_IF_ERROR(ReadLongFlag(word));
      } else if (word.size() > 1 && word[0] == '-') {
        MYC_RETURN_IF_ERROR(ReadShortFlags(word));
      } else {
        MYC_RETURN_IF_ERROR(ReadWord(word));
      }
    }
    for (; at_ < words_.size(); ++at_) {
      if (read_.command != nullptr && !read_.command->passthrough.empty()) {
        read_.passthrough.push_back(words_[at_]);
      } else {
        MYC_RETURN_IF_ERROR(ReadWord(words_[at_]));
      }
    }
    MYC_RETURN_IF_ERROR(CheckArgs());
    return std::move(read_);
  }

 private:
  absl::Status ReadWord(const std::string& word) {
    if (read_.args.empty()) {
      const std::string parent =
          read_.command == nullptr ? "" : read_.command->path;
      const std::string path =
          parent.empty() ? word : absl::StrCat(parent, " ", word);
      if (const Command* command = FindCommand(path)) {
        read_.command = command;
        return absl::OkStatus();
      }
      if (read_.command == nullptr) return UnknownCommand("", word);
      if (read_.command->handler == nullptr ||
          (read_.command->args.empty() && !Subcommands(parent).empty())) {
        return UnknownCommand(parent, word);
      }
    }
    const std::vector<Arg>& args = read_.command->args;
    if (read_.args.size() >= args.size() &&
        (args.empty() || !args.back().repeated)) {
      return UsageError(
          absl::StrCat(read_.command->path, " does not take the argument ",
                       Quoted(word)),
          {HelpOf(read_.command)});
    }
    read_.args.push_back(word);
    return absl::OkStatus();
  }

  absl::Status ReadLongFlag(const std::string& word) {
    const size_t equals = word.find('=');
    const std::string name = word.substr(2, equals - 2);
    const Flag* flag = FindKnown(read_.command, absl::string_view(name));
    if (flag == nullptr) return UnknownFlag(read_.command, word);
    const std::string shown = absl::StrCat("--", flag->name);
    if (equals == std::string::npos) return Take(*flag, shown, std::nullopt);
    if (!TakesValue(*flag)) {
      return UsageError(absl::StrCat(shown, " takes no value"));
    }
    return Take(*flag, shown, word.substr(equals + 1));
  }

  absl::Status ReadShortFlags(const std::string& word) {
    for (size_t i = 1; i < word.size(); ++i) {
      const Flag* flag = FindKnown(read_.command, word[i]);
      if (flag == nullptr) {
        return UnknownFlag(read_.command, absl::StrCat("-", word.substr(i, 1)));
      }
      const std::string shown = absl::StrCat("-", word.substr(i, 1));
      if (TakesValue(*flag) && i + 1 < word.size()) {
        std::string value = word.substr(i + 1);
        if (value[0] == '=') value.erase(0, 1);
        return Take(*flag, shown, value);
      }
      MYC_RETURN_IF_ERROR(Take(*flag, shown, std::nullopt));
    }
    return absl::OkStatus();
  }

  absl::Status Take(const Flag& flag, const std::string& shown,
                    std::optional<std::string> value) {
    if (TakesValue(flag) && !value) {
      if (at_ + 1 >= words_.size()) {
        return UsageError(absl::StrCat(shown, " needs a value: ", flag.value),
                          {HelpOf(read_.command)});
      }
      value = words_[++at_];
    }
    if (value) MYC_RETURN_IF_ERROR(CheckValue(flag, shown, *value));
    std::vector<std::string>& values = read_.flags[flag.name];
    if (flag.kind != FlagKind::kTexts && flag.kind != FlagKind::kCount) {
      values.clear();
    }
    values.push_back(value.value_or(""));
    return absl::OkStatus();
  }

  absl::Status CheckArgs() const {
    if (read_.Has("help") || AsksForVersion(read_) ||
        read_.command == nullptr) {
      return absl::OkStatus();
    }
    const Command& command = *read_.command;
    if (command.handler == nullptr) {
      std::vector<std::string> names;
      for (const Command* sub : Subcommands(command.path)) {
        names.push_back(sub->path.substr(command.path.size() + 1));
      }
      return UsageError(absl::StrCat(command.path, " needs one of: ",
                                     absl::StrJoin(names, ", ")),
                        {HelpOf(&command)});
    }
    for (size_t i = read_.args.size(); i < command.args.size(); ++i) {
      if (!command.args[i].required) continue;
      return UsageError(
          absl::StrCat(command.path, " needs ", command.args[i].name, ": ",
                       command.args[i].help),
          {HelpOf(&command)});
    }
    for (size_t i = 0; i < read_.args.size(); ++i) {
      const Arg& arg = command.args[std::min(i, command.args.size() - 1)];
      if (arg.choices.empty()) continue;
      if (std::find(arg.choices.begin(), arg.choices.end(), read_.args[i]) !=
          arg.choices.end()) {
        continue;
      }
      std::string message = absl::StrCat(command.path, " takes one of ",
                                         absl::StrJoin(arg.choices, ", "),
                                         ", not ", Quoted(read_.args[i]));
      if (const auto meant = DidYouMean(read_.args[i], arg.choices)) {
        absl::StrAppend(&message, " — did you mean \"", *meant, "\"?");
      }
      return UsageError(message, {HelpOf(&command)});
    }
    return absl::OkStatus();
  }

  const std::vector<std::string>& words_;
  size_t at_ = 0;
  Invocation read_;
};

}  // namespace

absl::StatusOr<Invocation> ParseCommandLine(
    const std::vector<std::string>& words) {
  return Reader(words).Read();
}

std::optional<std::string> DidYouMean(absl::string_view word,
                                      const std::vector<std::string>& known) {
  std::optional<std::string> best;
  size_t best_distance =
      std::max<size_t>(1, std::min<size_t>(3, word.size() / 2)) + 1;
  for (const std::string& candidate : known) {
    // Nothing sensible is that long, and the distance takes quadratic time.
    if (word.size() > 64 || candidate == word) continue;
    size_t distance = EditDistance(word, candidate);
    // The beginning of a word is a likely abbreviation.
    if (word.size() >= 3 && absl::StartsWith(candidate, word)) distance = 1;
    if (distance < best_distance) {
      best_distance = distance;
      best = candidate;
    }
  }
  return best;
}

std::optional<absl::Duration> ParseDurationFlag(absl::string_view text) {
  int64_t number = 0;
  if (absl::SimpleAtoi(text, &number)) {
    return number < 0 ? std::nullopt : std::optional(absl::Seconds(number));
  }
  absl::string_view days = text;
  if (absl::ConsumeSuffix(&days, "d") && absl::SimpleAtoi(days, &number)) {
    return number < 0 ? std::nullopt : std::optional(absl::Hours(24) * number);
  }
  absl::Duration duration;
  if (!absl::ParseDuration(text, &duration) ||
      duration < absl::ZeroDuration()) {
    return std::nullopt;
  }
  return duration;
}

std::optional<absl::Time> ParseTimeFlag(absl::string_view text,
                                        absl::Time now) {
  if (const auto ago = ParseDurationFlag(text)) return now - *ago;
  absl::Time time;
  std::string error;
  if (!absl::ParseTime(absl::RFC3339_full, text, &time, &error) ||
      text.empty() || !absl::ascii_isdigit(text[0])) {
    return std::nullopt;
  }
  return time;
}

bool AsksForVersion(const Invocation& call) {
  // `build --version 1.0.0` says something else.
  return call.Has("version") &&
         (call.command == nullptr ||
          FindFlag(call.command->flags, absl::string_view("version")) ==
              nullptr);
}

bool Invocation::Has(absl::string_view flag) const {
  return flags.count(std::string(flag)) > 0;
}

int Invocation::Count(absl::string_view flag) const {
  const auto found = flags.find(std::string(flag));
  return found == flags.end() ? 0 : static_cast<int>(found->second.size());
}

std::string Invocation::Get(absl::string_view flag,
                            absl::string_view otherwise) const {
  const auto found = flags.find(std::string(flag));
  return found == flags.end() ? std::string(otherwise) : found->second.back();
}

std::vector<std::string> Invocation::GetAll(absl::string_view flag) const {
  const auto found = flags.find(std::string(flag));
  return found == flags.end() ? std::vector<std::string>() : found->second;
}

int64_t Invocation::GetInteger(absl::string_view flag,
                               int64_t otherwise) const {
  int64_t value = otherwise;
  const std::string text = Get(flag);
  return absl::SimpleAtoi(text, &value) ? value : otherwise;
}

absl::Duration Invocation::GetDuration(absl::string_view flag,
                                       absl::Duration otherwise) const {
  return ParseDurationFlag(Get(flag)).value_or(otherwise);
}

}  // namespace mycelium::meshctl
