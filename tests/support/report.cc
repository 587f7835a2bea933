// SHORTFUSE_REPORT: one line of JSON per process. See harness.h.
#include <nlohmann/json.hpp>
#include <sstream>

#include "support/harness.h"

namespace shortfuse::tests {

Report Report::read(const std::string &path) {
  Report report;
  report.text_ = read_file(path);
  if (report.text_.empty()) throw Broken("no report in " + path);
  report.served_total();
  return report;
}

uint64_t Report::count(std::string_view op, std::string_view outcome) const {
  uint64_t sum = 0;
  std::istringstream lines(text_);
  for (std::string line; std::getline(lines, line);) {
    auto json = nlohmann::json::parse(line, nullptr, /*allow_exceptions=*/false);
    if (!json.is_object()) throw Broken("a report that is not JSON: " + line);
    const auto &from = op.empty() ? json.at("total") : json.at("ops").at(std::string(op));
    sum += from.at(std::string(outcome)).get<uint64_t>();
  }
  return sum;
}

uint64_t Report::served(std::string_view op) const { return count(op, "served"); }
uint64_t Report::missed(std::string_view op) const { return count(op, "missed"); }
uint64_t Report::denied(std::string_view op) const { return count(op, "denied"); }
uint64_t Report::served_total() const { return count("", "served"); }

}  // namespace shortfuse::tests
