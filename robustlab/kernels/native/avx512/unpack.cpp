#include "unpack.h"

namespace robustlab {
namespace avx512 {

void unpack_codes(const uint8_t* packed, int bits, int64_t steps, int factor, int offset, uint8_t* out) {
  Unpacking(packed, bits, steps, factor, offset, out, steps).rest();
}

}  // namespace avx512
}  // namespace robustlab
