// Pictures of the results: bar charts as SVG, and one page that holds them all. No scripts, nothing from a network.
#pragma once
#include <string>
#include <vector>

#include "results.h"

namespace shortfuse::bench {

/// Horizontal bars, one group per operation, one bar per variant; logarithmic. Operations of other units are left out.
std::string bar_chart(const Results &results, const std::string &title, const std::string &unit);

/// Everything on one page, with the table as text.
std::string report_page(const Results &results);

/// What ends up in XML: & < > " are escaped.
std::string xml(const std::string &text);

}  // namespace shortfuse::bench
