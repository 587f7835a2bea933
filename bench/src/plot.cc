#include "plot.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <iterator>

namespace shortfuse::bench {

namespace {

constexpr double kLabelWidth = 210, kPlotWidth = 560, kValueWidth = 90;
constexpr double kBarHeight = 13, kGroupGap = 12, kTop = 64, kBottom = 34;
const char *const kColours[] = {"#5b8ff9", "#b0b7c3", "#f6bd16", "#1a9e6d", "#9270ca", "#e8684a"};

std::string short_number(double value) {
  if (value >= 1e6) return fmt::format("{:.3g}M", value / 1e6);
  if (value >= 1e4) return fmt::format("{:.3g}k", value / 1e3);
  if (value >= 100) return fmt::format("{:.0f}", value);
  return fmt::format("{:.3g}", value);
}

struct Scale {
  double low, high;  ///< powers of ten
  double x(double value) const {
    return (std::log10(value) - std::log10(low)) / (std::log10(high) - std::log10(low)) * kPlotWidth;
  }
};

/// From the power of ten below the smallest figure to the one above the largest.
Scale scale_of(const std::vector<const Operation *> &operations, const std::vector<VariantLabel> &variants) {
  double low = 1e300, high = 0;
  for (const auto *op : operations) {
    for (const auto &variant : variants) {
      const auto figure = op->figure(variant.name);
      if (!figure || *figure <= 0) continue;
      low = std::min(low, *figure);
      high = std::max(high, *figure);
    }
  }
  if (high == 0) return {1, 10};
  const double bottom = std::pow(10, std::floor(std::log10(low))), top = std::pow(10, std::ceil(std::log10(high)));
  return {bottom, std::max(top, bottom * 10)};
}

using Out = std::back_insert_iterator<std::string>;

void put_text(Out out, double x, double y, const char *anchor, const char *style, const std::string &text) {
  fmt::format_to(out, R"(<text x="{:.1f}" y="{:.1f}" text-anchor="{}" {}>{}</text>)" "\n", x, y, anchor, style,
                 xml(text));
}

void put_grid(Out out, const Scale &scale, double bottom) {
  for (double value = scale.low; value <= scale.high * 1.001; value *= 10) {
    const double x = kLabelWidth + scale.x(value);
    fmt::format_to(out, R"(<line x1="{0:.1f}" y1="{1}" x2="{0:.1f}" y2="{2:.1f}" stroke="#e3e6eb"/>)" "\n", x, kTop - 6,
                   bottom);
    put_text(out, x, bottom + 14, "middle", R"(fill="#667")", short_number(value));
  }
}

void put_legend(Out out, const std::vector<VariantLabel> &variants) {
  double x = kLabelWidth;
  for (size_t i = 0; i < variants.size(); i++) {
    fmt::format_to(out, R"(<rect x="{:.1f}" y="34" width="10" height="10" fill="{}"/>)" "\n", x, kColours[i % 6]);
    put_text(out, x + 14, 43, "start", R"(fill="#333")", variants[i].name);
    x += 30 + 7.0 * static_cast<double>(variants[i].name.size());
  }
}

/// The bars of one operation from `y` downwards; returns where the next group begins.
double put_group(Out out, const Operation &op, const std::vector<VariantLabel> &variants, const Scale &scale,
                 double y) {
  const double middle = y + kBarHeight * static_cast<double>(variants.size()) / 2 + 4;
  put_text(out, kLabelWidth - 8, middle, "end", R"(fill="#111")", op.title);
  for (size_t i = 0; i < variants.size(); i++, y += kBarHeight) {
    const auto figure = op.figure(variants[i].name);
    if (!figure || *figure <= 0) continue;
    const double width = std::max(1.0, scale.x(*figure));
    fmt::format_to(out, R"(<rect x="{}" y="{:.1f}" width="{:.1f}" height="{}" fill="{}"/>)" "\n", kLabelWidth, y, width,
                   kBarHeight - 2, kColours[i % 6]);
    put_text(out, kLabelWidth + width + 4, y + 9, "start", R"(fill="#333" font-size="10")", short_number(*figure));
  }
  return y + kGroupGap;
}

}  // namespace

std::string xml(const std::string &text) {
  std::string out;
  for (const char c : text) {
    switch (c) {
      case '&': out += "&amp;"; break;
      case '<': out += "&lt;"; break;
      case '>': out += "&gt;"; break;
      case '"': out += "&quot;"; break;
      default: out += c;
    }
  }
  return out;
}

std::string bar_chart(const Results &results, const std::string &title, const std::string &unit) {
  std::vector<const Operation *> operations;
  for (const auto &op : results.operations) {
    if (op.unit == unit && !op.samples.empty()) operations.push_back(&op);
  }
  if (operations.empty()) return "";
  const Scale scale = scale_of(operations, results.variants);
  const double group = kBarHeight * static_cast<double>(results.variants.size()) + kGroupGap;
  const double bottom = kTop + group * static_cast<double>(operations.size());
  const double width = kLabelWidth + kPlotWidth + kValueWidth, height = bottom + kBottom;

  std::string svg;
  const Out out = std::back_inserter(svg);
  fmt::format_to(out,
                 R"(<svg xmlns="http://www.w3.org/2000/svg" width="{0:.0f}" height="{1:.0f}" )"
                 R"(viewBox="0 0 {0:.0f} {1:.0f}" )"
                 R"(font-family="sans-serif" font-size="12">)" "\n"
                 R"(<rect width="100%" height="100%" fill="#ffffff"/>)" "\n",
                 width, height);
  put_text(out, kLabelWidth, 20, "start", R"(font-size="15" font-weight="bold" fill="#111")", title);
  put_legend(out, results.variants);
  put_grid(out, scale, bottom);
  double y = kTop;
  for (const auto *op : operations) y = put_group(out, *op, results.variants, scale, y);
  svg += "</svg>\n";
  return svg;
}

std::string report_page(const Results &results) {
  std::string page =
      "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>shortfuse bench</title>\n"
      "<style>body{font-family:sans-serif;margin:2em auto;max-width:70em;color:#111;background:#fff}"
      "pre{overflow-x:auto;background:#f5f6f8;padding:1em;font-size:12px}</style></head><body>\n"
      "<h1>shortfuse bench</h1>\n";
  page += "<p>" + xml(results.machine.dump()) + "</p>\n";
  page += bar_chart(results, "Calls, warm: ns per call, logarithmic; less is better", "ns");
  page += bar_chart(results, "Programs over the tree: ms, logarithmic; less is better", "ms");
  page += bar_chart(results, "fio, 4 KiB random reads: IOPS, logarithmic; more is better", "IOPS");
  page += "<pre>" + xml(results.table()) + "</pre>\n</body></html>\n";
  return page;
}

}  // namespace shortfuse::bench
