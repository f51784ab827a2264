// Products of codes: u8 activations times s8 weights.
#include "product.h"

namespace robustlab {
namespace {

struct Multiply {
  static INLINE __m512i add(__m512i sum, __m512i a, __m512i w, __m512i) { return _mm512_dpbusd_epi32(sum, a, w); }
};

template <int kRows, int kPanels>
NOINLINE void codes_tile(const Windows& windows, const int64_t* starts, const uint8_t* weights, const Panels& panels,
                         int32_t* out, int64_t step) {
  const Rows<kRows> rows(starts);
  Sums<kRows, kPanels> sums;
  sums.clear();
  meet_runs<Multiply, Multiply, false>(sums, rows, windows, windows.image, weights, panels.bytes);
  sums.store(out, step);
}

struct Codes {
  template <int kRows, int kPanels>
  static constexpr Tile tile = codes_tile<kRows, kPanels>;
};

}  // namespace

namespace avx512 {

void codes_product(const Windows& windows, const Panels& panels, int32_t* out, int64_t step) {
  all_panels<Codes>(windows, panels, out, step);
}

}  // namespace avx512
}  // namespace robustlab
