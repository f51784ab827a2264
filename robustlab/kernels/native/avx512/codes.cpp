// Products of codes: u8 activations times s8 weights.
#include "product.h"

namespace robustlab {
namespace {

struct Multiply {
  static constexpr bool kClears = false;
  static INLINE __m512i add(__m512i sum, __m512i a, __m512i w, __m512i) { return _mm512_dpbusd_epi32(sum, a, w); }
};

template <int kRows, int kPanels>
struct Codes {
  static NOINLINE void tile(const Windows& windows, const Panels& panels, const RawSums& target, int64_t row,
                            int64_t panel) {
    const Rows<kRows> rows(windows.starts + row);
    Sums<kRows, kPanels> sums;
    sums.clear();
    meet_runs<Multiply, Multiply, Multiply>(sums, rows, windows, windows.image, panels.data + panel * panels.bytes,
                                            panels.bytes, RawSums::Tile<kRows, kPanels>(target, row, panel));
  }
};

}  // namespace

namespace avx512 {

void codes_product(const Windows& windows, const Panels& panels, int32_t* out, int64_t step) {
  all_panels<Codes>(windows, panels, RawSums{out, step});
}

}  // namespace avx512
}  // namespace robustlab
