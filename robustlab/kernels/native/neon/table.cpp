#include "../generic/pack.h"
#include "../generic/steps.h"
#include "../generic/threshold.h"
#include "lanes.h"
#include "products.h"

namespace robustlab {
namespace {

struct Kernels : Neon {
  static void bits_product(const Windows& windows, const Panels& panels, int32_t* out, int64_t step) {
    neon::bits_product(windows, panels, out, step);
  }
};

}  // namespace

const KernelTable& neon_kernels() {
  static const KernelTable table = {"neon",
                                    1.5,
                                    4.0,
                                    pack_signs<Kernels>,
                                    pack_codes<Kernels>,
                                    neon::unpack_codes,
                                    neon::bits_product,
                                    neon::codes_product,
                                    bits_threshold<Kernels>,
                                    neon::depthwise_codes,
                                    neon::depthwise_bits,
                                    run_steps<Kernels>,
                                    neon::boundary_step,
                                    neon::ascent_step,
                                    neon::gradient_line};
  return table;
}

}  // namespace robustlab
