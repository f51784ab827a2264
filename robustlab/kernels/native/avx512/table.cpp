#include "internal.h"

namespace robustlab {

const KernelTable& avx512_kernels() {
  static const KernelTable table = {"avx512",
                                    0.41,
                                    0.27,
                                    avx512::pack_signs,
                                    avx512::pack_codes,
                                    avx512::unpack_codes,
                                    avx512::bits_product,
                                    avx512::codes_product,
                                    avx512::bits_threshold,
                                    avx512::depthwise_codes,
                                    avx512::depthwise_bits,
                                    avx512::run_steps,
                                    avx512::boundary_step,
                                    avx512::ascent_step,
                                    avx512::gradient_line,
                                    avx512::direct_bits,
                                    avx512::direct_codes};
  return table;
}

}  // namespace robustlab
