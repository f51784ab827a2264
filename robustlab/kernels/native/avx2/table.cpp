#include "../generic/pack.h"
#include "../generic/steps.h"
#include "../generic/threshold.h"
#include "lanes.h"
#include "products.h"

namespace robustlab {
namespace {

struct Kernels : Avx2 {
  static void bits_product(const Windows& windows, const Panels& panels, int32_t* out, int64_t step) {
    avx2::bits_product(windows, panels, out, step);
  }
};

}  // namespace

const KernelTable& avx2_kernels() {
  static const KernelTable table = {"avx2",
                                    1.1,
                                    0.9,
                                    pack_signs<Kernels>,
                                    pack_codes<Kernels>,
                                    avx2::unpack_codes,
                                    avx2::bits_product,
                                    avx2::codes_product,
                                    bits_threshold<Kernels>,
                                    avx2::depthwise_codes,
                                    avx2::depthwise_bits,
                                    run_steps<Kernels>,
                                    avx2::boundary_step,
                                    avx2::ascent_step,
                                    avx2::gradient_line};
  return table;
}

}  // namespace robustlab
