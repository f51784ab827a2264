// Gathers the rows of a product: the input of one output pixel, all its taps joined in (kh, kw, C / groups) order.
#pragma once

#include <cstdint>
#include <vector>

#include "conv.h"

namespace robustlab {

class RowGatherer {
 public:
  // `bits_per_value` is 1 for signs and 8 for codes; `fill` is the byte that stands for values outside the image.
  RowGatherer(const ConvShape& shape, int bits_per_value, uint8_t fill);

  int64_t words() const { return words_; }            // 32-bit words of a row
  int64_t row_bytes() const { return 4 * words_; }
  int64_t unit_bytes() const { return unit_; }        // bytes of one pixel and group in the packed image
  int64_t pixel_bytes() const { return pixel_; }      // bytes of one pixel, all groups
  int64_t image_bytes() const { return pixel_ * shape_.height * shape_.width; }
  bool whole_words() const { return !byte_units_; }   // units are padded to words
  bool identity() const { return identity_; }         // the packed image is its own rows

  // Writes the rows of output pixels (out_y, begin..end-1), and up to 8 bytes behind them; reads up to 8 bytes behind
  // the image.
  void gather(const uint8_t* image, int64_t group, int64_t out_y, int64_t begin, int64_t end, uint8_t* rows) const;

  // Output positions with equal sets of taps inside the image share a pattern.
  int32_t pattern(int64_t out_y, int64_t out_x) const { return row_class_[out_y] * column_classes_ + column_class_[out_x]; }
  struct Position {
    int64_t y, x;
  };
  std::vector<Position> representatives() const;  // by pattern

 private:
  struct Range {
    int64_t begin, end;
    bool operator==(const Range& o) const { return begin == o.begin && end == o.end; }
  };
  static std::vector<Range> inside(int64_t out, int64_t size, int64_t taps, int64_t stride, int64_t pad, int64_t dilation);
  static std::vector<int32_t> classes(const std::vector<Range>& ranges, std::vector<int64_t>& firsts);

  void gather_bytes(const uint8_t* image, int64_t group, int64_t out_y, int64_t out_x, uint8_t* row) const;
  void gather_bits(const uint8_t* image, int64_t group, int64_t out_y, int64_t out_x, uint8_t* row) const;
  int64_t gather_inside(const uint8_t* image, int64_t group, int64_t out_y, int64_t begin, int64_t end,
                        uint8_t* rows) const;

  ConvShape shape_;
  uint8_t fill_;
  bool byte_units_, identity_;
  int64_t words_, unit_, pixel_, used_bytes_;
  std::vector<Range> rows_inside_, columns_inside_;
  std::vector<int64_t> row_firsts_, column_firsts_;
  std::vector<int32_t> row_class_, column_class_;
  int32_t column_classes_;
};

}  // namespace robustlab
