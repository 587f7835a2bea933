#include "results.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <stdexcept>

namespace shortfuse::bench {

const char *const kHookedVariant = "hook";

namespace {

std::string number(double value) {
  return value >= 1000 ? fmt::format("{:.0f}", value) : value >= 10 ? fmt::format("{:.1f}", value)
                                                                    : fmt::format("{:.2f}", value);
}

/// "0.21 of ext4 (bar 0.35)  ok"
std::string judged(const Operation &op, const Bar &bar) {
  const auto ratio = op.ratio(kHookedVariant, bar.against);
  if (!ratio) return fmt::format("bar {:.2f} of {}: not measured", bar.at_most, bar.against);
  const char *verdict = *ratio <= bar.at_most ? "ok" : "MISSED";
  // Bars of "at least N times faster" read better that way round.
  if (bar.at_most < 0.25) {
    return fmt::format("{:.0f} x {} (bar {:.0f} x) {}", 1 / *ratio, bar.against, 1 / bar.at_most, verdict);
  }
  return fmt::format("{:.2f} of {} (bar {:.2f}) {}", *ratio, bar.against, bar.at_most, verdict);
}

}  // namespace

double median(std::vector<double> values) {
  if (values.empty()) return 0;
  const auto middle = values.begin() + static_cast<long>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  if (values.size() % 2 == 1) return *middle;
  return (*middle + *std::max_element(values.begin(), middle)) / 2;
}

std::optional<double> Operation::figure(const std::string &variant) const {
  const auto found = samples.find(variant);
  if (found == samples.end() || found->second.empty()) return std::nullopt;
  return median(found->second);
}

std::optional<double> Operation::ratio(const std::string &variant, const std::string &against) const {
  const auto a = figure(variant), b = figure(against);
  if (!a || !b || *a <= 0 || *b <= 0) return std::nullopt;
  return higher_is_better ? *b / *a : *a / *b;
}

Operation &Results::operation(const std::string &name) {
  for (auto &op : operations) {
    if (op.name == name) return op;
  }
  throw std::logic_error("no operation " + name);
}

nlohmann::ordered_json Results::json() const {
  nlohmann::ordered_json all;
  all["format"] = 1;
  all["machine"] = machine;
  all["tree"] = tree;
  all["variants"] = nlohmann::ordered_json::array();
  for (const auto &variant : variants) all["variants"].push_back({{"name", variant.name}, {"title", variant.title}});
  for (const auto &op : operations) {
    nlohmann::ordered_json &entry = all["operations"][op.name];
    entry = {{"title", op.title}, {"unit", op.unit}, {"higher_is_better", op.higher_is_better}};
    for (const auto &variant : variants) {
      const auto figure = op.figure(variant.name);
      if (!figure) continue;
      auto &of_variant = entry["variants"][variant.name];
      of_variant["median"] = *figure;
      of_variant["samples"] = op.samples.at(variant.name);
      if (const auto ratio = op.ratio(variant.name, "ext4")) of_variant["time_over_ext4"] = *ratio;
    }
    entry["bars"] = nlohmann::ordered_json::array();
    for (const auto &bar : op.bars) {
      const auto ratio = op.ratio(kHookedVariant, bar.against);
      nlohmann::ordered_json judged_bar = {{"against", bar.against}, {"at_most", bar.at_most}};
      judged_bar["ratio"] = ratio ? nlohmann::ordered_json(*ratio) : nlohmann::ordered_json();
      judged_bar["met"] = ratio && *ratio <= bar.at_most;
      entry["bars"].push_back(judged_bar);
    }
  }
  all["hits"] = hits;
  all["notes"] = notes;
  return all;
}

std::string Results::table() const {
  std::string text;
  auto out = std::back_inserter(text);
  fmt::format_to(out, "\n{:<30}", "");
  for (const auto &variant : variants) fmt::format_to(out, "{:>16}", variant.name);
  fmt::format_to(out, "    hook against the bars\n");
  for (const auto &op : operations) {
    if (op.samples.empty()) continue;
    fmt::format_to(out, "{:<30}", fmt::format("{} [{}]", op.title, op.unit));
    for (const auto &variant : variants) {
      const auto figure = op.figure(variant.name);
      fmt::format_to(out, "{:>16}", figure ? number(*figure) : "-");
    }
    std::string separator = "    ";
    for (const auto &bar : op.bars) {
      fmt::format_to(out, "{}{}", separator, judged(op, bar));
      separator = "; ";
    }
    if (op.bars.empty()) {
      if (const auto ratio = op.ratio(kHookedVariant, "ext4")) fmt::format_to(out, "    {:.2f} of ext4", *ratio);
    }
    fmt::format_to(out, "\n");
  }
  fmt::format_to(out, "\n");
  for (const auto &variant : variants) fmt::format_to(out, "  {:<14} {}\n", variant.name, variant.title);
  for (const auto &note : notes) fmt::format_to(out, "  note: {}\n", note);
  return text;
}

}  // namespace shortfuse::bench
