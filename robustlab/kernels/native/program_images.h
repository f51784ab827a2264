// The images that hold the values of a program: one value may lie in memory in several forms, because its readers want
// it so.
#pragma once

#include <cstdint>
#include <deque>
#include <vector>

#include "memory_plan.h"
#include "program.h"

namespace robustlab {

enum class ImageForm : uint8_t {
  kPlanar,   // float or int32, channels first: the caller's tensors
  kFloat,
  kSigns,
  kCodes,    // one byte each
  kPlanes,   // bit planes of codes
};

struct ValueImage {
  int64_t value;
  ImageForm form;
  int64_t groups;              // of bits that each start at a whole byte; 1 also where groups fill whole bytes
  ImageLayout layout;          // not of kPlanar
  std::vector<uint8_t> halo;   // what every halo pixel holds; empty: there is no halo
  const ConvLayer* reader;     // a convolution that reads it, with this halo if there is one; or null
  int64_t caller = -1;         // kPlanar: which input or output it is
  int64_t offset = 0;          // in an arena for one image

  int64_t bytes() const { return (layout.image_bytes() + kSlack + kArenaStep - 1) / kArenaStep * kArenaStep; }
};

class ValueImages {
 public:
  explicit ValueImages(const ProgramSource& source) : source_(source), of_value_(source.values.size()) {}

  // The index of an image of the value in this form, found or made; its final layout is open until all are known.
  size_t plain(int64_t value, ImageForm form);
  size_t read_by(int64_t value, const ConvLayer& layer);
  size_t planar(int64_t value, int64_t caller);

  const std::vector<size_t>& of(int64_t value) const { return of_value_[static_cast<size_t>(value)]; }
  const ProgramValue& value(const ValueImage& image) const { return source_.values[static_cast<size_t>(image.value)]; }
  ValueImage& operator[](size_t index) { return images_[index]; }
  const ValueImage& operator[](size_t index) const { return images_[index]; }
  size_t size() const { return images_.size(); }

 private:
  size_t add(ValueImage image);

  const ProgramSource& source_;
  std::deque<ValueImage> images_;
  std::vector<std::vector<size_t>> of_value_;
};

}  // namespace robustlab
