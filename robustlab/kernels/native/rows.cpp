#include "rows.h"

#include <algorithm>
#include <cstring>

namespace robustlab {
namespace {

// Copies in steps of 8 bytes: at most 7 bytes too many are read and written, which later writes replace.
uint8_t* copy_over(uint8_t* to, const uint8_t* from, int64_t count) {
  if (count > 64) {
    std::memcpy(to, from, static_cast<size_t>(count));
  } else {
    for (int64_t i = 0; i < count; i += 8) std::memcpy(to + i, from + i, 8);
  }
  return to + count;
}

uint8_t* fill_over(uint8_t* to, uint8_t value, int64_t count) {
  if (count > 64) {
    std::memset(to, value, static_cast<size_t>(count));
  } else {
    for (int64_t i = 0; i < count; i += 8) std::memset(to + i, value, 8);
  }
  return to + count;
}

class BitWriter {
 public:
  explicit BitWriter(uint8_t* to) : to_(to) {}

  // `value` has no bits set above `count` <= 32.
  void append(uint32_t value, int64_t count) {
    pending_ |= static_cast<uint64_t>(value) << held_;
    held_ += count;
    if (held_ >= 32) {
      store(static_cast<uint32_t>(pending_));
      pending_ >>= 32;
      held_ -= 32;
    }
  }

  void finish() {
    if (held_ > 0) store(static_cast<uint32_t>(pending_));
  }

 private:
  void store(uint32_t word) {
    for (int i = 0; i < 4; ++i) *to_++ = static_cast<uint8_t>(word >> (8 * i));
  }

  uint8_t* to_;
  uint64_t pending_ = 0;
  int64_t held_ = 0;
};

int64_t round_up(int64_t value, int64_t step) { return (value + step - 1) / step; }

}  // namespace

RowGatherer::RowGatherer(const ConvShape& shape, int bits_per_value, uint8_t fill) : shape_(shape), fill_(fill) {
  const int64_t unit_bits = shape.group_channels * bits_per_value;
  byte_units_ = unit_bits % 8 == 0;
  unit_ = byte_units_ ? unit_bits / 8 : 4 * round_up(unit_bits, 32);
  pixel_ = unit_ * shape.groups;
  words_ = round_up(shape.taps() * bits_per_value, 32);
  used_bytes_ = round_up(shape.taps() * bits_per_value, 8);
  identity_ = byte_units_ && unit_ % 4 == 0 && shape.groups == 1 && shape.taps_y == 1 && shape.taps_x == 1 &&
              shape.stride_y == 1 && shape.stride_x == 1 && shape.pad_y == 0 && shape.pad_x == 0;
  rows_inside_ =
      inside(shape.out_height(), shape.height, shape.taps_y, shape.stride_y, shape.pad_y, shape.dilation_y);
  columns_inside_ =
      inside(shape.out_width(), shape.width, shape.taps_x, shape.stride_x, shape.pad_x, shape.dilation_x);
  row_class_ = classes(rows_inside_, row_firsts_);
  column_class_ = classes(columns_inside_, column_firsts_);
  column_classes_ = static_cast<int32_t>(column_firsts_.size());
}

std::vector<RowGatherer::Range> RowGatherer::inside(int64_t out, int64_t size, int64_t taps, int64_t stride,
                                                    int64_t pad, int64_t dilation) {
  std::vector<Range> ranges(static_cast<size_t>(out));
  for (int64_t i = 0; i < out; ++i) {
    const int64_t start = i * stride - pad;  // input position of the first tap
    const int64_t begin = start >= 0 ? 0 : round_up(-start, dilation);
    const int64_t end = start >= size ? 0 : (size - 1 - start) / dilation + 1;
    const int64_t first = std::min(begin, taps), last = std::min(end, taps);
    ranges[static_cast<size_t>(i)] = first < last ? Range{first, last} : Range{0, 0};
  }
  return ranges;
}

std::vector<int32_t> RowGatherer::classes(const std::vector<Range>& ranges, std::vector<int64_t>& firsts) {
  std::vector<int32_t> result(ranges.size());
  for (size_t i = 0; i < ranges.size(); ++i) {
    // neighbours are mostly equal, so the search from the back is short
    size_t found = firsts.size();
    while (found > 0 && !(ranges[static_cast<size_t>(firsts[found - 1])] == ranges[i])) --found;
    if (found == 0) {
      firsts.push_back(static_cast<int64_t>(i));
      found = firsts.size();
    }
    result[i] = static_cast<int32_t>(found - 1);
  }
  return result;
}

std::vector<RowGatherer::Position> RowGatherer::representatives() const {
  std::vector<Position> positions;
  for (const int64_t y : row_firsts_)
    for (const int64_t x : column_firsts_) positions.push_back({y, x});
  return positions;
}

void RowGatherer::gather(const uint8_t* image, int64_t group, int64_t out_y, int64_t begin, int64_t end,
                         uint8_t* rows) const {
  for (int64_t x = begin; x < end;) {
    uint8_t* row = rows + (x - begin) * row_bytes();
    if (!byte_units_) {
      gather_bits(image, group, out_y, x++, row);
      continue;
    }
    const int64_t done = gather_inside(image, group, out_y, x, end, row);
    if (done == 0) gather_bytes(image, group, out_y, x, row);
    x += std::max<int64_t>(done, 1);
  }
}

// The rows of the next output pixels that have all taps inside the image, one piece per line of the kernel; returns how
// many pixels that are.
int64_t RowGatherer::gather_inside(const uint8_t* image, int64_t group, int64_t out_y, int64_t begin, int64_t end,
                                   uint8_t* rows) const {
  const Range all{0, shape_.taps_y}, all_columns{0, shape_.taps_x};
  if (shape_.groups != 1 || shape_.dilation_x != 1 || !(rows_inside_[static_cast<size_t>(out_y)] == all)) return 0;
  int64_t x = begin;
  const int64_t piece = shape_.taps_x * unit_, line = shape_.dilation_y * shape_.width * pixel_;
  const int64_t bytes = row_bytes(), taps_y = shape_.taps_y, used = used_bytes_, step = shape_.stride_x * pixel_;
  const int64_t y = out_y * shape_.stride_y - shape_.pad_y;
  const uint8_t* from = image + (y * shape_.width + begin * shape_.stride_x - shape_.pad_x) * pixel_ + group * unit_;
  for (; x < end && columns_inside_[static_cast<size_t>(x)] == all_columns; ++x, from += step, rows += bytes) {
    uint8_t* to = rows;
    for (int64_t ky = 0; ky < taps_y; ++ky) to = copy_over(to, from + ky * line, piece);
    for (int64_t i = used; i < bytes; ++i) rows[i] = 0;
  }
  return x - begin;
}

void RowGatherer::gather_bytes(const uint8_t* image, int64_t group, int64_t out_y, int64_t out_x, uint8_t* row) const {
  const Range rows = rows_inside_[static_cast<size_t>(out_y)], columns = columns_inside_[static_cast<size_t>(out_x)];
  const int64_t line = shape_.taps_x * unit_;
  const bool contiguous = shape_.groups == 1 && shape_.dilation_x == 1;
  const int64_t first_x = out_x * shape_.stride_x - shape_.pad_x + columns.begin * shape_.dilation_x;
  uint8_t* to = fill_over(row, fill_, rows.begin * line);
  for (int64_t ky = rows.begin; ky < rows.end; ++ky) {
    const int64_t y = out_y * shape_.stride_y - shape_.pad_y + ky * shape_.dilation_y;
    to = fill_over(to, fill_, columns.begin * unit_);
    if (columns.begin < columns.end) {
      const uint8_t* from = image + (y * shape_.width + first_x) * pixel_ + group * unit_;
      if (contiguous) {
        to = copy_over(to, from, (columns.end - columns.begin) * unit_);
      } else {
        for (int64_t kx = columns.begin; kx < columns.end; ++kx, from += shape_.dilation_x * pixel_)
          to = copy_over(to, from, unit_);
      }
    }
    to = fill_over(to, fill_, (shape_.taps_x - columns.end) * unit_);
  }
  fill_over(to, fill_, (shape_.taps_y - rows.end) * line);
  for (int64_t i = used_bytes_; i < row_bytes(); ++i) row[i] = 0;
}

void RowGatherer::gather_bits(const uint8_t* image, int64_t group, int64_t out_y, int64_t out_x, uint8_t* row) const {
  const Range rows = rows_inside_[static_cast<size_t>(out_y)], columns = columns_inside_[static_cast<size_t>(out_x)];
  const uint32_t filler = fill_ == 0 ? 0u : ~0u;
  BitWriter writer(row);
  for (int64_t ky = 0; ky < shape_.taps_y; ++ky) {
    const int64_t y = out_y * shape_.stride_y - shape_.pad_y + ky * shape_.dilation_y;
    for (int64_t kx = 0; kx < shape_.taps_x; ++kx) {
      const int64_t x = out_x * shape_.stride_x - shape_.pad_x + kx * shape_.dilation_x;
      const bool valid = ky >= rows.begin && ky < rows.end && kx >= columns.begin && kx < columns.end;
      const uint8_t* unit = valid ? image + (y * shape_.width + x) * pixel_ + group * unit_ : nullptr;
      for (int64_t c = 0; c < shape_.group_channels; c += 32) {
        const int64_t count = std::min<int64_t>(32, shape_.group_channels - c);
        uint32_t word = count == 32 ? filler : filler & ((1u << count) - 1u);
        if (valid) {
          const uint8_t* p = unit + c / 8;
          word = static_cast<uint32_t>(p[0]) | static_cast<uint32_t>(p[1]) << 8 | static_cast<uint32_t>(p[2]) << 16 |
                 static_cast<uint32_t>(p[3]) << 24;
        }
        writer.append(word, count);
      }
    }
  }
  writer.finish();
}

}  // namespace robustlab
