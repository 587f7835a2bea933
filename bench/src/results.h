// What was measured, and what it is held against.
#pragma once
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

namespace shortfuse::bench {

double median(std::vector<double> values);  ///< 0 when empty

/// A goal for the hooked variant: its figure over another variant's.
struct Bar {
  std::string against;  ///< the variant's name
  double at_most;       ///< of the ratio of times
};

struct Operation {
  std::string name;    ///< a stable word
  std::string title;
  std::string unit;    ///< "ns", "ms", "IOPS"
  bool higher_is_better = false;
  std::vector<Bar> bars;
  std::map<std::string, std::vector<double>> samples;  ///< by variant, one per round

  std::optional<double> figure(const std::string &variant) const;  ///< the median
  /// How much time `variant` takes of what `against` takes (for throughput: turned round, so that less is better).
  std::optional<double> ratio(const std::string &variant, const std::string &against) const;
};

struct VariantLabel {
  std::string name, title;
};

struct Results {
  nlohmann::ordered_json machine, tree, hits;
  std::vector<VariantLabel> variants;
  std::vector<Operation> operations;
  std::vector<std::string> notes;  ///< what could not be measured, and why

  Operation &operation(const std::string &name);
  nlohmann::ordered_json json() const;
  std::string table() const;
};

extern const char *const kHookedVariant;

}  // namespace shortfuse::bench
