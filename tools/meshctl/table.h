// Tables for people: aligned columns, fitted to the terminal.

#ifndef TOOLS_MESHCTL_TABLE_H_
#define TOOLS_MESHCTL_TABLE_H_

#include <string>
#include <vector>

#include "absl/strings/string_view.h"

namespace mycelium::meshctl {

// What a cell means; decides its colour, never its text.
enum class Tone { kPlain, kGood, kBusy, kBad, kFaint };

// `text` in the colour of `tone`, or as it is if `color` is false.
std::string Toned(absl::string_view text, Tone tone, bool color);

// How many columns of a terminal `text` takes; one for each code point.
size_t DisplayWidth(absl::string_view text);

// The first `width` columns of `text`, the last of them `…` if some are cut.
std::string FitToWidth(absl::string_view text, size_t width);

struct Cell {
  Cell(std::string text, Tone tone = Tone::kPlain)  // NOLINT: rows read well.
      : text(std::move(text)), tone(tone) {}
  Cell(const char* text) : text(text) {}  // NOLINT

  std::string text;
  Tone tone = Tone::kPlain;
};

struct Column {
  std::string header;  // In capitals.
  bool right = false;  // Aligned to the right, as numbers are.
  bool wide = false;   // Shown by `-o wide` only.
};

struct TableStyle {
  // Fits rows to so many columns by cutting the last cells; 0 never cuts.
  size_t width = 0;
  bool wide = false;
  bool color = false;
  bool headers = true;
  // Only these columns, by header in any case and in this order; all if empty.
  std::vector<std::string> columns;
};

class Table {
 public:
  explicit Table(std::vector<Column> columns) : columns_(std::move(columns)) {}

  // `row` has as many cells as the table has columns.
  void AddRow(std::vector<Cell> row) { rows_.push_back(std::move(row)); }

  bool empty() const { return rows_.empty(); }
  const std::vector<Column>& columns() const { return columns_; }
  const std::vector<std::vector<Cell>>& rows() const { return rows_; }

  // Lines without trailing spaces. An empty table has its header only.
  std::string Render(const TableStyle& style) const;

 private:
  std::vector<Column> columns_;
  std::vector<std::vector<Cell>> rows_;
};

}  // namespace mycelium::meshctl

#endif  // TOOLS_MESHCTL_TABLE_H_
