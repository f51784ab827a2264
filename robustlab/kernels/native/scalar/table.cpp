// Portable kernels: plain loops, which a compiler may turn into vector code.
#include "../generic/pack.h"
#include "../generic/steps.h"
#include "../generic/threshold.h"
#include "products.h"
#include "unpack.h"

namespace robustlab {
namespace {

struct Scalar : Lanes {
  static void bits_product(const Windows& windows, const Panels& panels, int32_t* out, int64_t step) {
    scalar::bits_product(windows, panels, out, step);
  }
};

}  // namespace

const KernelTable& scalar_kernels() {
  static const KernelTable table = {"scalar",
                                    12.0,
                                    16.0,
                                    pack_signs<Scalar>,
                                    pack_codes<Scalar>,
                                    unpack_codes,
                                    scalar::bits_product,
                                    scalar::codes_product,
                                    bits_threshold<Scalar>,
                                    scalar::depthwise_codes,
                                    scalar::depthwise_bits,
                                    run_steps<Scalar>,
                                    scalar::boundary_step,
                                    scalar::ascent_step,
                                    scalar::gradient_line};
  return table;
}

}  // namespace robustlab
