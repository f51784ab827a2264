// What the passes over memory of a binary layer from float to float cost by themselves, without any product.
//
//     g++ -O3 -march=native benchmarks/passes.cpp -o passes && ./passes
//
// Reading float NCHW and comparing with zero; and making float NCHW of sums that lie in the first cache: convert, scale,
// bias, batch norm (scale, add), transposes from channels last, store. Together with the time that the product takes at
// the measured peak they bound a layer whose parts do not overlap. Needs AVX-512; prints medians in microseconds.

#include <immintrin.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

namespace {

void compare(const float* x, size_t count, uint16_t* out) {
  for (size_t i = 0; i < count; i += 16)
    out[i / 16] = _mm512_cmp_ps_mask(_mm512_loadu_ps(x + i), _mm512_setzero_ps(), _CMP_GE_OQ);
}

__m512 finished(const int32_t* sums, size_t i) {
  const __m512 scale = _mm512_set1_ps(0.37f), bias = _mm512_set1_ps(0.1f);
  const __m512 v = _mm512_cvtepi32_ps(_mm512_load_si512(sums + (i & 4095)));
  return _mm512_add_ps(_mm512_mul_ps(_mm512_add_ps(_mm512_mul_ps(v, scale), bias), scale), bias);
}

void channels_last(const int32_t* sums, size_t count, float* y) {
  for (size_t i = 0; i < count; i += 16) _mm512_storeu_ps(y + i, finished(sums, i));
}

void transpose(__m512 (&r)[16]) {
  __m512d t[16];
  for (int i = 0; i < 16; i += 2) {
    t[i] = _mm512_castps_pd(_mm512_unpacklo_ps(r[i], r[i + 1]));
    t[i + 1] = _mm512_castps_pd(_mm512_unpackhi_ps(r[i], r[i + 1]));
  }
  for (int i = 0; i < 16; i += 4) {
    r[i] = _mm512_castpd_ps(_mm512_unpacklo_pd(t[i], t[i + 2]));
    r[i + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(t[i], t[i + 2]));
    r[i + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(t[i + 1], t[i + 3]));
    r[i + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(t[i + 1], t[i + 3]));
  }
  __m512 u[16];
  for (int i = 0; i < 4; ++i) {
    const __m512 a = _mm512_shuffle_f32x4(r[i], r[4 + i], 0x88), b = _mm512_shuffle_f32x4(r[8 + i], r[12 + i], 0x88);
    const __m512 c = _mm512_shuffle_f32x4(r[i], r[4 + i], 0xdd), d = _mm512_shuffle_f32x4(r[8 + i], r[12 + i], 0xdd);
    u[i] = _mm512_shuffle_f32x4(a, b, 0x88);
    u[8 + i] = _mm512_shuffle_f32x4(a, b, 0xdd);
    u[4 + i] = _mm512_shuffle_f32x4(c, d, 0x88);
    u[12 + i] = _mm512_shuffle_f32x4(c, d, 0xdd);
  }
  std::memcpy(r, u, sizeof u);
}

void planar(const int32_t* sums, int channels, int pixels, float* y) {
  for (int p = 0; p < pixels; p += 16)
    for (int c = 0; c < channels; c += 16) {
      __m512 r[16];
      for (int j = 0; j < 16; ++j) r[j] = finished(sums, 16 * static_cast<size_t>(j + c));
      transpose(r);
      for (int j = 0; j < 16; ++j) _mm512_storeu_ps(y + static_cast<size_t>(c + j) * pixels + p, r[j]);
    }
}

template <class Run>
double median(const Run& run) {
  std::vector<double> times;
  for (int i = 0; i < 2000; ++i) {
    const auto start = std::chrono::steady_clock::now();
    run();
    times.push_back(std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - start).count());
  }
  std::nth_element(times.begin(), times.begin() + 1000, times.end());
  return times[1000];
}

}  // namespace

int main() {
  constexpr int kShapes[][2] = {{64, 3136}, {128, 784}};
  for (const auto& [channels, pixels] : kShapes) {
    const size_t count = static_cast<size_t>(channels) * pixels;
    auto* x = static_cast<float*>(std::aligned_alloc(4096, 4 * count));
    auto* y = static_cast<float*>(std::aligned_alloc(4096, 4 * count));
    auto* bits = static_cast<uint16_t*>(std::aligned_alloc(64, count / 8));
    auto* sums = static_cast<int32_t*>(std::aligned_alloc(64, 4 * 4096));
    std::fill_n(x, count, 1.0f);
    std::fill_n(y, count, 0.0f);
    std::fill_n(bits, count / 16, uint16_t{0});
    std::fill_n(sums, 4096, 7);
    const double read = median([&] { compare(x, count, bits); });
    const double last = median([&] { compare(x, count, bits); channels_last(sums, count, y); });
    const double nchw = median([&] { compare(x, count, bits); planar(sums, channels, pixels, y); });
    std::printf("%d channels, %d pixels: read %.1f, read and write channels last %.1f, read and write NCHW %.1f us\n",
                channels, pixels, read, last, nchw);
    std::free(x), std::free(y), std::free(bits), std::free(sums);
  }
}
