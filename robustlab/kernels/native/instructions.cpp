#include "instructions.h"

#include "moves.h"

namespace robustlab {
namespace {

void fill_halos(const Instruction& self, const ValueImages& images, const Frame& frame) {
  for (const size_t i : self.writes)
    if (!images[i].halo.empty())
      fill_halo(frame.image[i], frame.images, images[i].layout, images[i].halo.data());
}

const float* or_null(const std::vector<float>& values) { return values.empty() ? nullptr : values.data(); }

// A layer that reads an image as it is, for packing images that no convolution reads.
ConvLayer plain_reader(const ProgramValue& value, const ValueImage& image) {
  ConvLayer layer{};
  layer.geometry = {1, value.channels, 1, 1, 1, 1, 0, 0, 1, 1, 1};
  layer.weight_bits = image.form == ImageForm::kCodes ? 8 : 1;
  layer.activation_bits = image.form == ImageForm::kSigns ? 0 : 1;
  while (value.quantizer.largest >> layer.activation_bits > 0 && image.form != ImageForm::kSigns) ++layer.activation_bits;
  layer.activation = value.quantizer;
  return layer;
}

Pooling pooling_of(const ProgramNode& node) {
  return {node.kernel_y, node.kernel_x, node.stride_y, node.stride_x, node.pad_y, node.pad_x};
}

}  // namespace

void run_pack(const Instruction& self, const ValueImages& images, const Frame& frame, const std::vector<StepPlan>&) {
  const ValueImage& target = images[self.writes[0]];
  const ProgramNode& node = *self.node;
  const ConvLayer layer = target.reader != nullptr ? *target.reader : plain_reader(images.value(target), target);
  pack_input(frame.kernels, frame.threads, layer, target.layout,
             reinterpret_cast<const float*>(frame.image[self.reads[0]]), frame.images, or_null(node.thresholds),
             or_null(node.sub), or_null(node.div), frame.image[self.writes[0]]);
}

void run_convolution(const Instruction& self, const ValueImages& images, const Frame& frame,
                     const std::vector<StepPlan>& steps) {
  run_conv(frame.kernels, frame.threads, self.node->layer, *self.constants, frame.image[self.reads[0]],
           images[self.reads[0]].layout, frame.images, steps);
  fill_halos(self, images, frame);
}

void run_steps(const Instruction& self, const ValueImages& images, const Frame& frame,
               const std::vector<StepPlan>& steps) {
  run_blocks(frame.kernels, frame.threads, {frame.images, self.height, self.width}, self.channels, steps, nullptr);
  fill_halos(self, images, frame);
}

void run_max_pool(const Instruction& self, const ValueImages& images, const Frame& frame,
                  const std::vector<StepPlan>&) {
  const size_t from = self.reads[0], to = self.writes[0];
  (images[to].form == ImageForm::kSigns ? max_pool_signs : max_pool_bytes)(
      frame.image[from], images[from].layout, frame.images, pooling_of(*self.node), frame.image[to], images[to].layout);
  fill_halos(self, images, frame);
}

void run_sum_pool(const Instruction& self, const ValueImages& images, const Frame& frame,
                  const std::vector<StepPlan>&) {
  const size_t from = self.reads[0], to = self.writes[0];
  sum_pool(frame.image[from], images[from].layout, frame.images, pooling_of(*self.node),
           images.value(images[from]).channels, frame.image[to], images[to].layout);
}

void run_join(const Instruction& self, const ValueImages& images, const Frame& frame, const std::vector<StepPlan>&) {
  const size_t to = self.writes[0];
  const ImageLayout& target = images[to].layout;
  int64_t shift = 0;
  for (const size_t from : self.reads) {
    const ImageLayout& source = images[from].layout;
    const int64_t channels = images.value(images[from]).channels;
    if (images[to].form == ImageForm::kFloat || images[to].form == ImageForm::kCodes) {
      join_bytes(frame.image[from], source, frame.images, source.pixel, shift, frame.image[to], target);
      shift += source.pixel;
    } else {
      join_bits(frame.image[from], source, frame.images, channels, shift, frame.image[to], target);
      shift += channels;
    }
  }
  fill_halos(self, images, frame);
}

void run_spread(const Instruction& self, const ValueImages& images, const Frame& frame, const std::vector<StepPlan>&) {
  const size_t from = self.reads[0], to = self.writes[0];
  const int64_t groups = images[to].groups, channels = images.value(images[to]).channels;
  spread_groups(frame.image[from], images[from].layout, frame.images, groups, channels / groups, frame.image[to],
                images[to].layout);
  fill_halos(self, images, frame);
}

void run_subsample(const Instruction& self, const ValueImages& images, const Frame& frame,
                   const std::vector<StepPlan>&) {
  const size_t from = self.reads[0], to = self.writes[0];
  subsample(frame.image[from], images[from].layout, frame.images, images.value(images[from]).channels,
            self.node->stride_y, self.node->stride_x, self.node->front, frame.image[to], images[to].layout);
}

}  // namespace robustlab
