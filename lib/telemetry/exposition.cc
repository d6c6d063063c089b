#include "lib/telemetry/exposition.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"

namespace mycelium::telemetry {
namespace {

// The shortest text that reads back as `value`, without an exponent for a
// magnitude from 1e-4 to below `limit`.
std::string Format(double value, double limit) {
  const double magnitude = std::abs(value);
  const bool fixed = value == 0 || (magnitude >= 1e-4 && magnitude < limit);
  std::array<char, 32> text;
  const auto [end, error] = std::to_chars(
      text.data(), text.data() + text.size(), value,
      fixed ? std::chars_format::fixed : std::chars_format::scientific);
  return {text.data(), static_cast<size_t>(end - text.data())};
}

std::string FormatDouble(double value) {
  if (std::isnan(value)) return "NaN";
  if (std::isinf(value)) return value > 0 ? "+Inf" : "-Inf";
  return Format(value, 1e15);
}

// The canonical form that OpenMetrics wants of bounds, in both formats so that
// they name the same series.
std::string FormatBound(double value) {
  std::string bound = Format(value, 1e6);
  if (bound.find_first_of(".e") == std::string::npos) bound += ".0";
  return bound;
}

void AppendEscaped(absl::string_view text, bool quotes, std::string* out) {
  for (const char c : text) {
    if (c == '\\') {
      out->append("\\\\");
    } else if (c == '\n') {
      out->append("\\n");
    } else if (c == '"' && quotes) {
      out->append("\\\"");
    } else {
      out->push_back(c);
    }
  }
}

absl::string_view NameOf(MetricType type) {
  switch (type) {
    case MetricType::kCounter:
      return "counter";
    case MetricType::kGauge:
      return "gauge";
    case MetricType::kHistogram:
      return "histogram";
  }
  return "unknown";
}

// The weight that an element of an Accept field gives; 1 if it names none.
double WeightOf(absl::string_view element) {
  double weight = 1;
  for (const absl::string_view part : absl::StrSplit(element, ';')) {
    absl::string_view text = absl::StripAsciiWhitespace(part);
    if (!absl::ConsumePrefix(&text, "q=") && !absl::ConsumePrefix(&text, "Q="))
      continue;
    if (!absl::SimpleAtod(text, &weight) || !(weight >= 0 && weight <= 1))
      return 0;
  }
  return weight;
}

}  // namespace

ExpositionFormat ChooseFormat(absl::string_view accept) {
  double open_metrics = 0;
  double plain = 0;
  for (const absl::string_view element : absl::StrSplit(accept, ',')) {
    const absl::string_view type =
        absl::StripAsciiWhitespace(element.substr(0, element.find(';')));
    if (absl::EqualsIgnoreCase(type, "application/openmetrics-text")) {
      open_metrics = std::max(open_metrics, WeightOf(element));
    } else if (absl::EqualsIgnoreCase(type, "text/plain")) {
      plain = std::max(plain, WeightOf(element));
    }
  }
  return open_metrics > 0 && open_metrics >= plain
             ? ExpositionFormat::kOpenMetrics
             : ExpositionFormat::kText;
}

absl::string_view ContentTypeOf(ExpositionFormat format) {
  return format == ExpositionFormat::kOpenMetrics
             ? "application/openmetrics-text; version=1.0.0; charset=utf-8"
             : "text/plain; version=0.0.4; charset=utf-8";
}

void Exposition::Family(absl::string_view name, MetricType type,
                        absl::string_view help) {
  name_ = std::string(name);
  absl::string_view base = name;
  if (format_ == ExpositionFormat::kOpenMetrics &&
      type == MetricType::kCounter) {
    absl::ConsumeSuffix(&base, "_total");
  }
  absl::StrAppend(&text_, "# TYPE ", base, " ", NameOf(type), "\n");
  if (format_ == ExpositionFormat::kOpenMetrics) {
    for (const absl::string_view unit : {"seconds", "bytes"}) {
      if (absl::EndsWith(base, absl::StrCat("_", unit)))
        absl::StrAppend(&text_, "# UNIT ", base, " ", unit, "\n");
    }
  }
  absl::StrAppend(&text_, "# HELP ", base, " ");
  AppendEscaped(help, format_ == ExpositionFormat::kOpenMetrics, &text_);
  text_.push_back('\n');
}

void Exposition::AppendLabel(const Label& label) {
  if (text_.back() != '{') text_.push_back(',');
  absl::StrAppend(&text_, label.name, "=\"");
  AppendEscaped(label.value, true, &text_);
  text_.push_back('"');
}

void Exposition::Begin(absl::string_view suffix, Labels labels) {
  absl::StrAppend(&text_, name_, suffix);
  if (labels.size() == 0) return;
  text_.push_back('{');
  for (const Label& label : labels) AppendLabel(label);
  text_.push_back('}');
}

void Exposition::Sample(Labels labels, int64_t value) {
  Begin("", labels);
  absl::StrAppend(&text_, " ", value, "\n");
}

void Exposition::Sample(Labels labels, double value) {
  Begin("", labels);
  absl::StrAppend(&text_, " ", FormatDouble(value), "\n");
}

void Exposition::Histogram(Labels labels, absl::Span<const double> bounds,
                           absl::Span<const int64_t> counts, double sum,
                           absl::Span<const Exemplar> exemplars) {
  int64_t below = 0;
  for (size_t i = 0; i < counts.size(); ++i) {
    below += counts[i];
    absl::StrAppend(&text_, name_, "_bucket{");
    for (const Label& label : labels) AppendLabel(label);
    AppendLabel({"le", i < bounds.size() ? FormatBound(bounds[i])
                                         : std::string("+Inf")});
    absl::StrAppend(&text_, "} ", below);
    if (format_ == ExpositionFormat::kOpenMetrics && i < exemplars.size() &&
        !exemplars[i].trace_id.empty()) {
      absl::StrAppend(&text_, " # {trace_id=\"", exemplars[i].trace_id, "\"} ",
                      FormatDouble(exemplars[i].value), " ",
                      FormatDouble(exemplars[i].time_seconds));
    }
    text_.push_back('\n');
  }
  Begin("_sum", labels);
  absl::StrAppend(&text_, " ", FormatDouble(sum), "\n");
  Begin("_count", labels);
  absl::StrAppend(&text_, " ", below, "\n");
}

std::string Exposition::Finish() {
  if (format_ == ExpositionFormat::kOpenMetrics) text_ += "# EOF\n";
  return std::move(text_);
}

}  // namespace mycelium::telemetry
