#ifndef LIB_TELEMETRY_EXPOSITION_H_
#define LIB_TELEMETRY_EXPOSITION_H_

#include <cstdint>
#include <initializer_list>
#include <string>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace mycelium::telemetry {

// The Prometheus text format 0.0.4, or OpenMetrics 1.0.
enum class ExpositionFormat : uint8_t { kText, kOpenMetrics };

// The format that suits an Accept field best; the text format if in doubt.
ExpositionFormat ChooseFormat(absl::string_view accept);
// What Content-Type says of it.
absl::string_view ContentTypeOf(ExpositionFormat format);

enum class MetricType : uint8_t { kCounter, kGauge, kHistogram };

struct Label {
  absl::string_view name;   // A valid name.
  absl::string_view value;  // Any bytes.
};
using Labels = std::initializer_list<Label>;

// A request that one bucket of a histogram counted. No trace: none.
struct Exemplar {
  std::string trace_id;
  double value = 0;
  double time_seconds = 0;  // Of the Unix epoch.
};

// Writes metrics for a scraper, family by family. Not thread-safe.
class Exposition {
 public:
  explicit Exposition(ExpositionFormat format) : format_(format) {}

  // Begins a family; its samples follow. The name of a counter ends in
  // `_total`, and names end in their unit before that. Each name is used once.
  void Family(absl::string_view name, MetricType type, absl::string_view help);

  void Sample(Labels labels, int64_t value);
  void Sample(Labels labels, double value);

  // `counts` has one element more than `bounds`: what lies above the last.
  // They are not cumulative. `exemplars` has none, or as many as `counts`; the
  // text format leaves them out.
  void Histogram(Labels labels, absl::Span<const double> bounds,
                 absl::Span<const int64_t> counts, double sum,
                 absl::Span<const Exemplar> exemplars = {});

  // Ends the page and returns it.
  std::string Finish();

 private:
  void Begin(absl::string_view suffix, Labels labels);
  void AppendLabel(const Label& label);

  const ExpositionFormat format_;
  std::string name_;
  std::string text_;
};

}  // namespace mycelium::telemetry

#endif  // LIB_TELEMETRY_EXPOSITION_H_
