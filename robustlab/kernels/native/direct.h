// Layers whose products end in memory at once: bits, floats or codes of every output, with no block of sums in between.
#pragma once

#include <cstdint>
#include <vector>

#include "blocks.h"
#include "conv.h"
#include "conv_constants.h"
#include "kernels.h"

namespace robustlab {

using DirectFunction = void (*)(const Windows& windows, const Panels& panels, const Direct& direct);

// The function that computes a layer with these steps, or null where it must go through blocks. width: of the output.
DirectFunction direct_product(const KernelTable& kernels, const ConvLayer& layer, int64_t width,
                              const std::vector<StepPlan>& steps);

struct DirectLayer {
  DirectFunction product;
  Windows windows;                // image: where the windows of the first output pixel start; without starts
  Panels panels;                  // of all outputs; without data where `packed` is given
  const PackedPanels* packed;     // see Direct, or null; for one task only, see is_one_task()
  RowSpace space;
  const ImageLayout& layout;      // of the input
  const PixelMap& window;
  const ConvConstants& constants;
  double nanoseconds;             // of one row, roughly
};

// Whether a layer of one image runs as one task, of whole lines and all channels.
bool is_one_task(const RowSpace& space, const ConvConstants& constants, int threads);

// The steps must be those that the function was asked for.
void run_direct(const DirectLayer& layer, int threads, const std::vector<StepPlan>& steps);

}  // namespace robustlab
