#include "program_images.h"

#include <algorithm>

namespace robustlab {
namespace {

int64_t plain_pixel(const ProgramValue& value, ImageForm form) {
  switch (form) {
    case ImageForm::kFloat: return 4 * value.channels;
    case ImageForm::kCodes: return value.channels;
    case ImageForm::kSigns:
    case ImageForm::kPlanes: return (value.channels + 7) / 8;
    case ImageForm::kPlanar: break;
  }
  return 0;
}

int64_t bit_planes(const ProgramValue& value) {
  int64_t planes = 0;
  while (value.quantizer.largest >> planes > 0) ++planes;
  return planes;
}

ImageForm form_of(const ConvLayer& layer) {
  switch (activation_form(layer)) {
    case Activation::kSigns: return ImageForm::kSigns;
    case Activation::kPlanes: return ImageForm::kPlanes;
    case Activation::kCodes: break;
  }
  return ImageForm::kCodes;
}

}  // namespace

size_t ValueImages::add(ValueImage image) {
  images_.push_back(std::move(image));
  of_value_[static_cast<size_t>(images_.back().value)].push_back(images_.size() - 1);
  return images_.size() - 1;
}

size_t ValueImages::plain(int64_t index, ImageForm form) {
  for (const size_t i : of(index))
    if (images_[i].form == form && images_[i].groups == 1) return i;
  const ProgramValue& value = source_.values[static_cast<size_t>(index)];
  ImageLayout layout;
  layout.height = value.height;
  layout.width = value.width;
  layout.pixel = plain_pixel(value, form);
  layout.planes = form == ImageForm::kPlanes ? bit_planes(value) : 1;
  return add({index, form, 1, layout, {}, nullptr});
}

size_t ValueImages::read_by(int64_t index, const ConvLayer& layer) {
  const ProgramValue& value = source_.values[static_cast<size_t>(index)];
  const ImageForm form = form_of(layer);
  const ImageLayout layout = input_layout(layer, value.height, value.width);
  const Geometry& g = layer.geometry;
  const bool whole_bytes = form == ImageForm::kCodes || g.depthwise() || g.group_channels % 8 == 0;
  const int64_t groups = whole_bytes ? 1 : g.groups;
  const bool bordered = layout.halo_y > 0 || layout.halo_x > 0;
  std::vector<uint8_t> halo = bordered ? halo_pattern(layer) : std::vector<uint8_t>{};
  for (const size_t i : of(index)) {
    ValueImage& image = images_[i];
    if (image.form != form || image.groups != groups) continue;
    if (bordered && !image.halo.empty() && image.halo != halo) continue;
    if (bordered) image.halo = std::move(halo);
    if (bordered || image.reader == nullptr) image.reader = &layer;   // its halo is the image's
    image.layout.halo_y = std::max(image.layout.halo_y, layout.halo_y);
    image.layout.halo_x = std::max(image.layout.halo_x, layout.halo_x);
    return i;
  }
  return add({index, form, groups, layout, std::move(halo), &layer});
}

size_t ValueImages::planar(int64_t index, int64_t caller) {
  ValueImage image{index, ImageForm::kPlanar, 1, {}, {}, nullptr};
  image.caller = caller;
  return add(std::move(image));
}

}  // namespace robustlab
