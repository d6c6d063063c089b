#include "tools/meshctl/table.h"

#include <algorithm>
#include <cstddef>
#include <string>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace mycelium::meshctl {
namespace {

constexpr size_t kGap = 2;

absl::string_view Escape(Tone tone) {
  switch (tone) {
    case Tone::kGood:
      return "\x1b[32m";
    case Tone::kBusy:
      return "\x1b[33m";
    case Tone::kBad:
      return "\x1b[31m";
    case Tone::kFaint:
      return "\x1b[2m";
    case Tone::kPlain:
      break;
  }
  return "";
}

bool IsContinuation(char c) {
  return (static_cast<unsigned char>(c) & 0xc0U) == 0x80;
}

std::vector<size_t> Selected(const std::vector<Column>& columns,
                             const TableStyle& style) {
  std::vector<size_t> selected;
  if (!style.columns.empty()) {
    for (const std::string& name : style.columns) {
      for (size_t i = 0; i < columns.size(); ++i) {
        if (absl::EqualsIgnoreCase(columns[i].header, name)) {
          selected.push_back(i);
        }
      }
    }
    return selected;
  }
  for (size_t i = 0; i < columns.size(); ++i) {
    if (style.wide || !columns[i].wide) selected.push_back(i);
  }
  return selected;
}

}  // namespace

std::string Toned(absl::string_view text, Tone tone, bool color) {
  if (!color || tone == Tone::kPlain) return std::string(text);
  return absl::StrCat(Escape(tone), text, "\x1b[0m");
}

size_t DisplayWidth(absl::string_view text) {
  return static_cast<size_t>(std::count_if(
      text.begin(), text.end(), [](char c) { return !IsContinuation(c); }));
}

std::string FitToWidth(absl::string_view text, size_t width) {
  if (DisplayWidth(text) <= width) return std::string(text);
  if (width == 0) return "";
  size_t end = 0;
  for (size_t columns = 0; end < text.size(); ++end) {
    if (IsContinuation(text[end])) continue;
    if (++columns == width) break;
  }
  return absl::StrCat(text.substr(0, end), "…");
}

std::string Table::Render(const TableStyle& style) const {
  const std::vector<size_t> selected = Selected(columns_, style);
  std::vector<size_t> widths;
  for (const size_t i : selected) {
    size_t width = style.headers ? DisplayWidth(columns_[i].header) : 0;
    for (const auto& row : rows_) {
      width = std::max(width, DisplayWidth(row[i].text));
    }
    widths.push_back(width);
  }

  std::string out;
  const auto add_row = [&](const auto& cell_at) {
    std::string line;
    size_t used = 0;
    for (size_t at = 0; at < selected.size(); ++at) {
      const Cell cell = cell_at(selected[at]);
      if (at > 0) {
        line.append(kGap, ' ');
        used += kGap;
      }
      std::string text = cell.text;
      size_t width = widths[at];
      if (style.width > 0) {
        const size_t left = style.width > used ? style.width - used : 0;
        text = FitToWidth(text, std::min(width, left));
        width = std::min(width, left);
      }
      const std::string padding(width - std::min(width, DisplayWidth(text)),
                                ' ');
      if (columns_[selected[at]].right) line += padding;
      line += Toned(text, cell.tone, style.color);
      if (!columns_[selected[at]].right) line += padding;
      used += width;
    }
    absl::StrAppend(&out, absl::StripTrailingAsciiWhitespace(line), "\n");
  };

  if (style.headers) {
    add_row(
        [this](size_t i) { return Cell(columns_[i].header, Tone::kFaint); });
  }
  for (const auto& row : rows_) {
    add_row([&row](size_t i) { return row[i]; });
  }
  return out;
}

}  // namespace mycelium::meshctl
