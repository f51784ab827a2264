// Which taps of a window lie inside the image, for every output position.
#pragma once

#include <cstdint>
#include <vector>

#include "conv.h"

namespace robustlab {

class Borders {
 public:
  Borders(const Geometry& geometry, int64_t height, int64_t width);

  // Output positions with equal sets of taps inside the image share a pattern.
  int64_t patterns() const { return static_cast<int64_t>(row_ranges_.size() * column_ranges_.size()); }
  int32_t pattern(int64_t out_y, int64_t out_x) const {
    return row_class_[static_cast<size_t>(out_y)] * static_cast<int32_t>(column_ranges_.size()) +
           column_class_[static_cast<size_t>(out_x)];
  }
  // Lines of equal class have the same pattern in every column.
  int64_t line_classes() const { return static_cast<int64_t>(row_ranges_.size()); }
  int32_t line_class(int64_t out_y) const { return row_class_[static_cast<size_t>(out_y)]; }
  int32_t class_pattern(int64_t line_class, int64_t out_x) const {
    return static_cast<int32_t>(line_class * static_cast<int64_t>(column_ranges_.size())) +
           column_class_[static_cast<size_t>(out_x)];
  }
  bool inside(int64_t pattern, int64_t tap_y, int64_t tap_x) const {
    const auto columns = static_cast<int64_t>(column_ranges_.size());
    return row_ranges_[static_cast<size_t>(pattern / columns)].has(tap_y) &&
           column_ranges_[static_cast<size_t>(pattern % columns)].has(tap_x);
  }

 private:
  struct Range {
    int64_t begin, end;
    bool has(int64_t tap) const { return begin <= tap && tap < end; }
    bool operator==(const Range& o) const { return begin == o.begin && end == o.end; }
  };
  static std::vector<int32_t> classes(int64_t out, int64_t size, int64_t taps, int64_t stride, int64_t pad,
                                      int64_t dilation, std::vector<Range>& ranges);

  std::vector<Range> row_ranges_, column_ranges_;
  std::vector<int32_t> row_class_, column_class_;
};

}  // namespace robustlab
