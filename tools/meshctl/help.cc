#include "tools/meshctl/help.h"

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "tools/meshctl/failure.h"
#include "tools/meshctl/table.h"

namespace mycelium::meshctl {
namespace {

constexpr size_t kWidth = 80;

std::string ArgUsage(const Arg& arg) {
  std::string text = arg.name;
  if (arg.repeated) text += "...";
  return arg.required ? text : absl::StrCat("[", text, "]");
}

std::string UsageLine(const Command& command) {
  std::string line = absl::StrCat("meshctl ", command.path);
  if (command.handler == nullptr) return line + " COMMAND";
  for (const Arg& arg : command.args)
    absl::StrAppend(&line, " ", ArgUsage(arg));
  if (!command.flags.empty()) line += " [flags]";
  if (!command.passthrough.empty()) {
    absl::StrAppend(&line, " [-- ", command.passthrough, "...]");
  }
  return line;
}

std::string FlagUsage(const Flag& flag) {
  std::string text = flag.letter == 0
                         ? "    "
                         : absl::StrCat("-", std::string(1, flag.letter), ", ");
  absl::StrAppend(&text, "--", flag.name);
  if (!flag.value.empty()) absl::StrAppend(&text, " ", flag.value);
  return text;
}

std::string FlagHelp(const Flag& flag) {
  std::string text = flag.help;
  if (flag.kind == FlagKind::kTexts) text += "; may be repeated";
  return text;
}

// Two columns: terms, and what they mean, wrapped.
std::string Definitions(
    const std::vector<std::pair<std::string, std::string>>& rows) {
  size_t width = 0;
  for (const auto& [term, meaning] : rows) {
    width = std::max(width, DisplayWidth(term));
  }
  width = std::min<size_t>(width, 26);
  std::string text;
  for (const auto& [term, meaning] : rows) {
    const std::string wrapped = Wrapped(meaning, width + 4, kWidth);
    if (DisplayWidth(term) > width) {
      absl::StrAppend(&text, "  ", term, "\n", wrapped);
    } else {
      absl::StrAppend(&text, "  ", term,
                      std::string(width - DisplayWidth(term), ' '), "  ",
                      wrapped.substr(width + 4));
    }
  }
  return text;
}

std::vector<std::pair<std::string, std::string>> FlagRows(
    const std::vector<Flag>& flags) {
  std::vector<std::pair<std::string, std::string>> rows;
  for (const Flag& flag : flags) {
    rows.emplace_back(FlagUsage(flag), FlagHelp(flag));
  }
  return rows;
}

std::vector<std::string> Groups() {
  std::vector<std::string> groups;
  for (const Command& command : Commands()) {
    if (!command.hidden && std::find(groups.begin(), groups.end(),
                                     command.group) == groups.end()) {
      groups.push_back(command.group);
    }
  }
  return groups;
}

std::vector<ExitCode> ExitsOf(const Command& command) {
  std::vector<ExitCode> codes = {ExitCode::kOk, ExitCode::kError,
                                 ExitCode::kUsage};
  codes.insert(codes.end(), command.exits.begin(), command.exits.end());
  return codes;
}

std::string MarkdownCell(absl::string_view text) {
  return absl::StrReplaceAll(text, {{"|", "\\|"}, {"\n", " "}});
}

std::string MarkdownFlags(const std::vector<Flag>& flags) {
  std::string text = "| flag | meaning |\n|---|---|\n";
  for (const Flag& flag : flags) {
    const std::string usage(absl::StripAsciiWhitespace(FlagUsage(flag)));
    absl::StrAppend(&text, "| `", MarkdownCell(usage), "` | ",
                    MarkdownCell(FlagHelp(flag)), " |\n");
  }
  return text;
}

// Lines that stay as they are become code.
std::string MarkdownText(absl::string_view text) {
  std::vector<std::string> lines;
  for (const absl::string_view line : absl::StrSplit(text, '\n')) {
    lines.push_back(absl::StartsWith(line, "  ") ? absl::StrCat("  ", line)
                                                 : std::string(line));
  }
  return absl::StrJoin(lines, "\n");
}

std::string MarkdownCommand(const Command& command) {
  std::string text = absl::StrCat("### meshctl ", command.path, "\n\n");
  absl::StrAppend(&text, "```\n", UsageLine(command), "\n```\n\n",
                  command.description, "\n");
  if (!command.aliases.empty()) {
    absl::StrAppend(&text, "\nAlso: `", absl::StrJoin(command.aliases, "`, `"),
                    "`.\n");
  }
  if (!command.args.empty()) {
    text += "\n| argument | meaning |\n|---|---|\n";
    for (const Arg& arg : command.args) {
      absl::StrAppend(&text, "| `", ArgUsage(arg), "` | ",
                      MarkdownCell(arg.help), " |\n");
    }
  }
  if (!command.flags.empty()) {
    absl::StrAppend(&text, "\n", MarkdownFlags(command.flags));
  }
  if (!command.examples.empty()) {
    text += "\n```sh\n";
    for (const Example& example : command.examples) {
      absl::StrAppend(&text, "# ", example.says, "\n", example.line, "\n");
    }
    text += "```\n";
  }
  if (command.handler != nullptr) {
    std::vector<std::string> codes;
    for (const ExitCode code : ExitsOf(command)) {
      codes.push_back(
          absl::StrCat(static_cast<int>(code), " ", ExitCodeName(code)));
    }
    absl::StrAppend(&text, "\nExits with ", absl::StrJoin(codes, ", "), ".\n");
  }
  return text + "\n";
}

std::string ExitCodesText() {
  std::vector<std::pair<std::string, std::string>> rows;
  for (const ExitCodeInfo& info : ExitCodes()) {
    rows.emplace_back(absl::StrCat(static_cast<int>(info.code), " ", info.name),
                      std::string(info.meaning));
  }
  return Definitions(rows);
}

// What follows `completer` in a completion, in the words of Complete.
void AddCandidates(Completer completer, const std::vector<std::string>& choices,
                   std::vector<std::string>& out) {
  switch (completer) {
    case Completer::kFile:
      out.push_back(":files");
      break;
    case Completer::kDirectory:
      out.push_back(":directories");
      break;
    case Completer::kApp:
      out.push_back(":apps");
      break;
    case Completer::kNode:
      out.push_back(":nodes");
      break;
    case Completer::kDigest:
      out.push_back(":digests");
      break;
    case Completer::kCommand:
      for (const Command& command : Commands()) {
        if (!command.hidden) out.push_back(command.path);
      }
      for (const Topic& topic : Topics()) out.push_back(topic.name);
      break;
    case Completer::kTopic:
      for (const Topic& topic : Topics()) out.push_back(topic.name);
      break;
    case Completer::kChoices:
    case Completer::kNone:
      break;
  }
  out.insert(out.end(), choices.begin(), choices.end());
}

const Flag* FlagOfWord(const Command* command, absl::string_view word) {
  const auto search = [word](const std::vector<Flag>& flags) -> const Flag* {
    for (const Flag& flag : flags) {
      if (word == absl::StrCat("--", flag.name) ||
          (flag.letter != 0 &&
           word == absl::StrCat("-", std::string(1, flag.letter)))) {
        return &flag;
      }
    }
    return nullptr;
  };
  if (command != nullptr) {
    if (const Flag* flag = search(command->flags)) return flag;
  }
  return search(GlobalFlags());
}

bool TakesValue(const Flag& flag) {
  return flag.kind != FlagKind::kSwitch && flag.kind != FlagKind::kCount;
}

}  // namespace

std::string Wrapped(absl::string_view text, size_t margin, size_t width) {
  const std::string indent(margin, ' ');
  std::string out;
  std::string line;
  const auto flush = [&] {
    if (!line.empty()) absl::StrAppend(&out, indent, line, "\n");
    line.clear();
  };
  for (const absl::string_view paragraph : absl::StrSplit(text, '\n')) {
    if (paragraph.empty()) {
      flush();
      out += '\n';
      continue;
    }
    if (absl::StartsWith(paragraph, "  ")) {
      flush();
      absl::StrAppend(&out, indent, paragraph, "\n");
      continue;
    }
    for (const absl::string_view word :
         absl::StrSplit(paragraph, ' ', absl::SkipEmpty())) {
      if (!line.empty() &&
          margin + DisplayWidth(line) + 1 + DisplayWidth(word) > width) {
        flush();
      }
      if (!line.empty()) line += ' ';
      absl::StrAppend(&line, word);
    }
    flush();
  }
  return out;
}

std::string OverviewText() {
  std::string text =
      "Mycelium Mesh runs signed plain binaries across nodes, without "
      "containers.\n\n"
      "  meshctl run mesh.toml            try your app on a local mesh\n"
      "  meshctl apply billing.spore      run it on the mesh of a context\n\n";
  for (const std::string& group : Groups()) {
    std::vector<std::string> names;
    for (const Command& command : Commands()) {
      if (!command.hidden && command.group == group &&
          !absl::StrContains(command.path, ' ')) {
        names.push_back(command.path);
      }
    }
    absl::StrAppend(&text, group,
                    std::string(8 - std::min<size_t>(8, group.size()), ' '),
                    absl::StrJoin(names, "  "), "\n");
  }
  std::vector<std::string> topics;
  for (const Topic& topic : Topics()) topics.push_back(topic.name);
  absl::StrAppend(&text,
                  "\nmeshctl help COMMAND tells more; so does meshctl help ",
                  absl::StrJoin(topics, " | "), ".\n");
  return text;
}

std::string CommandHelp(const Command& command) {
  std::string text =
      absl::StrCat(command.summary, ".\n\nUsage\n  ", UsageLine(command), "\n");
  if (!command.aliases.empty()) {
    absl::StrAppend(&text, "  also: meshctl ",
                    absl::StrJoin(command.aliases, ", meshctl "), "\n");
  }
  if (!command.description.empty()) {
    absl::StrAppend(&text, "\n", Wrapped(command.description, 0, kWidth));
  }
  const std::vector<const Command*> subcommands = Subcommands(command.path);
  if (!subcommands.empty()) {
    std::vector<std::pair<std::string, std::string>> rows;
    for (const Command* sub : subcommands) {
      rows.emplace_back(sub->path, sub->summary);
    }
    absl::StrAppend(&text, "\nCommands\n", Definitions(rows));
  }
  if (!command.args.empty()) {
    std::vector<std::pair<std::string, std::string>> rows;
    for (const Arg& arg : command.args) rows.emplace_back(arg.name, arg.help);
    absl::StrAppend(&text, "\nArguments\n", Definitions(rows));
  }
  if (!command.flags.empty()) {
    absl::StrAppend(&text, "\nFlags\n", Definitions(FlagRows(command.flags)));
  }
  if (!command.examples.empty()) {
    text += "\nExamples\n";
    for (const Example& example : command.examples) {
      absl::StrAppend(&text, "  ", example.line, "\n      ", example.says,
                      "\n");
    }
  }
  if (!command.exits.empty()) {
    std::vector<std::string> codes;
    for (const ExitCode code : command.exits) {
      codes.push_back(
          absl::StrCat(static_cast<int>(code), " ", ExitCodeName(code)));
    }
    absl::StrAppend(&text, "\n",
                    Wrapped(absl::StrCat("Exit codes besides 0, 1 and 2: ",
                                         absl::StrJoin(codes, ", ")),
                            0, kWidth));
  }
  text += "\nFlags of every command: meshctl help flags\n";
  return text;
}

std::string TopicHelp(absl::string_view name) {
  for (const Topic& topic : Topics()) {
    if (topic.name != name) continue;
    if (name == "flags") {
      return absl::StrCat(topic.summary, ".\n\n",
                          Definitions(FlagRows(GlobalFlags())));
    }
    std::string text =
        absl::StrCat(topic.summary, ".\n\n", Wrapped(topic.text, 0, kWidth));
    if (name == "exit-codes") absl::StrAppend(&text, "\n", ExitCodesText());
    return text;
  }
  return "";
}

std::string MarkdownReference() {
  std::string text =
      "# meshctl\n\n"
      "Made from the table of commands in `tools/meshctl/command_table.cc` by\n"
      "`meshctl help --markdown`; a test keeps it up to date.\n\n"
      "| command | does |\n|---|---|\n";
  for (const Command& command : Commands()) {
    if (command.hidden) continue;
    std::string anchor = absl::StrReplaceAll(
        absl::StrCat("meshctl ", command.path), {{" ", "-"}});
    absl::StrAppend(&text, "| [`", command.path, "`](#", anchor, ") | ",
                    MarkdownCell(command.summary), " |\n");
  }
  absl::StrAppend(&text, "\n## Flags of every command\n\n",
                  MarkdownFlags(GlobalFlags()), "\n## Exit codes\n\n",
                  "| code | name | when |\n|---|---|---|\n");
  for (const ExitCodeInfo& info : ExitCodes()) {
    absl::StrAppend(&text, "| ", static_cast<int>(info.code), " | ", info.name,
                    " | ", MarkdownCell(info.meaning), " |\n");
  }
  text += "\n";
  for (const std::string& group : Groups()) {
    absl::StrAppend(&text, "## ", group, "\n\n");
    for (const Command& command : Commands()) {
      if (!command.hidden && command.group == group) {
        text += MarkdownCommand(command);
      }
    }
  }
  text += "## Topics\n";
  for (const Topic& topic : Topics()) {
    if (topic.text.empty()) continue;
    absl::StrAppend(&text, "\n### ", topic.name, "\n\n", topic.summary, ".\n\n",
                    MarkdownText(topic.text), "\n");
  }
  return text;
}

std::string CompletionScript(absl::string_view shell) {
  // The table stays in one place: each script asks meshctl what may follow.
  if (shell == "zsh") {
    return R"(#compdef meshctl
# Load with:  source <(meshctl completion zsh)
_meshctl() {
  local -a candidates
  local line
  candidates=()
  for line in "${(@f)$(meshctl __complete --timeout 1s -- "${(@)words[2,$CURRENT]}" 2>/dev/null)}"; do
    case "$line" in
      :files) _files ;;
      :directories) _files -/ ;;
      '') ;;
      *) candidates+=("$line") ;;
    esac
  done
  (( ${#candidates} )) && compadd -- "${candidates[@]}"
}
compdef _meshctl meshctl
)";
  }
  if (shell == "fish") {
    return R"(# Load with:  meshctl completion fish | source
function __meshctl_complete
    set -l words (commandline -opc) (commandline -ct)
    for line in (meshctl __complete --timeout 1s -- $words[2..-1] 2>/dev/null)
        switch $line
            case ':files' ':directories'
                __fish_complete_path (commandline -ct)
            case '*'
                echo $line
        end
    end
end
complete -c meshctl -f -a '(__meshctl_complete)'
)";
  }
  return R"(# Load with:  source <(meshctl completion bash)
_meshctl() {
  local current=${COMP_WORDS[COMP_CWORD]} line
  # Bash splits at = and :, which no word of meshctl needs.
  local words=("${COMP_WORDS[@]:1:COMP_CWORD}")
  COMPREPLY=()
  while IFS= read -r line; do
    case $line in
      :files)
        compopt -o filenames 2>/dev/null || :
        COMPREPLY+=($(compgen -f -- "$current"))
        ;;
      :directories)
        compopt -o filenames 2>/dev/null || :
        COMPREPLY+=($(compgen -d -- "$current"))
        ;;
      '') ;;
      *) COMPREPLY+=("$line") ;;
    esac
  done < <("${COMP_WORDS[0]}" __complete --timeout 1s -- "${words[@]}" 2>/dev/null)
}
complete -F _meshctl meshctl
)";
}

std::vector<std::string> Complete(const std::vector<std::string>& words) {
  const std::string current = words.empty() ? "" : words.back();
  const Command* command = nullptr;
  const Flag* pending = nullptr;
  size_t args = 0;
  for (size_t i = 0; i + 1 < words.size(); ++i) {
    if (pending != nullptr) {
      pending = nullptr;
      continue;
    }
    if (absl::StartsWith(words[i], "-")) {
      const Flag* flag = FlagOfWord(command, words[i]);
      if (flag != nullptr && TakesValue(*flag)) pending = flag;
      continue;
    }
    const std::string path = command == nullptr
                                 ? words[i]
                                 : absl::StrCat(command->path, " ", words[i]);
    const Command* found = args == 0 ? FindCommand(path) : nullptr;
    if (found != nullptr) {
      command = found;
    } else {
      ++args;
    }
  }

  std::vector<std::string> candidates;
  if (pending != nullptr) {
    AddCandidates(pending->completer, pending->choices, candidates);
  } else if (absl::StartsWith(current, "-")) {
    const auto add = [&candidates](const std::vector<Flag>& flags) {
      for (const Flag& flag : flags) {
        candidates.push_back(absl::StrCat("--", flag.name));
      }
    };
    if (command != nullptr) add(command->flags);
    add(GlobalFlags());
  } else {
    if (args == 0) {
      const std::string prefix =
          command == nullptr ? "" : absl::StrCat(command->path, " ");
      for (const Command& other : Commands()) {
        absl::string_view rest = other.path;
        if (!other.hidden && absl::ConsumePrefix(&rest, prefix) &&
            !absl::StrContains(rest, ' ')) {
          candidates.emplace_back(rest);
        }
      }
    }
    if (command != nullptr && !command->args.empty() &&
        (args < command->args.size() || command->args.back().repeated)) {
      const Arg& arg = command->args[std::min(args, command->args.size() - 1)];
      AddCandidates(arg.completer, arg.choices, candidates);
    }
  }
  candidates.erase(std::remove_if(candidates.begin(), candidates.end(),
                                  [&current](const std::string& candidate) {
                                    return !absl::StartsWith(candidate,
                                                             current) &&
                                           !absl::StartsWith(candidate, ":");
                                  }),
                   candidates.end());
  return candidates;
}

}  // namespace mycelium::meshctl
