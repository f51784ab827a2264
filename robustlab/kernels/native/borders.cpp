#include "borders.h"

#include <algorithm>

namespace robustlab {

Borders::Borders(const Geometry& g, int64_t height, int64_t width) {
  row_class_ = classes(g.out_height(height), height, g.taps_y, g.stride_y, g.pad_y, g.dilation_y, row_ranges_);
  column_class_ = classes(g.out_width(width), width, g.taps_x, g.stride_x, g.pad_x, g.dilation_x, column_ranges_);
}

std::vector<int32_t> Borders::classes(int64_t out, int64_t size, int64_t taps, int64_t stride, int64_t pad,
                                      int64_t dilation, std::vector<Range>& ranges) {
  std::vector<int32_t> result(static_cast<size_t>(out));
  for (int64_t i = 0; i < out; ++i) {
    const int64_t start = i * stride - pad;  // input position of the first tap
    const int64_t begin = start >= 0 ? 0 : (-start + dilation - 1) / dilation;
    const int64_t end = start >= size ? 0 : (size - 1 - start) / dilation + 1;
    Range range{std::min(begin, taps), std::min(end, taps)};
    if (range.begin >= range.end) range = {0, 0};
    // neighbours are mostly equal, so the search from the back is short
    size_t found = ranges.size();
    while (found > 0 && !(ranges[found - 1] == range)) --found;
    if (found == 0) {
      ranges.push_back(range);
      found = ranges.size();
    }
    result[static_cast<size_t>(i)] = static_cast<int32_t>(found - 1);
  }
  return result;
}

}  // namespace robustlab
