// Forward passes of a decoder-only transformer on a CPU, over a preallocated cache, for a few tokens at a time.
//
// Weights keep their 16 bits in memory, because at batch 1 the time of a step is the time to read them; sums are
// float32. Every sum runs in an order that depends on its terms alone: not on how many tokens go through at once,
// and not on the rows that hold a token's ancestors. So the logits of a tree node are, bit for bit, those that plain
// decoding computes at the same position, in every dtype.
//
// Every thread takes the same part of equally long lists of tasks, and writes columns of a row that no other does. So
// threads wait for each other only before they read what others wrote.
//
// Shapes: M tokens of this pass, H hidden, D head size, K inputs and N outputs of a matrix.

#include <algorithm>
#include <array>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <new>
#include <stdexcept>
#include <type_traits>
#include <utility>
#include <vector>

#include <omp.h>
#ifdef __linux__
#include <sched.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif
#ifdef __AVX512BF16__
#include <immintrin.h>
#endif

namespace {

// LANES: floats in a vector. Those longer than a register the compiler takes apart, through memory, at a tenth of the
// speed.
// BLOCK: tokens that share one reading of a panel, as many as have their sums in registers.
// QUERIES: tokens that share one reading of a head's cache.
// PREFETCH_FROM_TOKENS: passes of at least so many tokens fetch weights ahead of their turn; with fewer the processor's
// own prefetching keeps up.
#if defined(__AVX512F__)
constexpr int64_t LANES = 16, BLOCK = 14, QUERIES = 4, PREFETCH_FROM_TOKENS = 5;
#elif defined(__AVX__)
constexpr int64_t LANES = 8, BLOCK = 5, QUERIES = 5, PREFETCH_FROM_TOKENS = 2;
#elif defined(__aarch64__)
constexpr int64_t LANES = 4, BLOCK = 12, QUERIES = 4, PREFETCH_FROM_TOKENS = 2;
#else
constexpr int64_t LANES = 4, BLOCK = 4, QUERIES = 4, PREFETCH_FROM_TOKENS = 2;
#endif
constexpr int64_t VECTORS = 2;              // vectors that a panel is wide
constexpr int64_t PANEL = VECTORS * LANES;  // outputs of a matrix that are computed together
constexpr int64_t COUNTERS = 16;            // Philox counters for the noise of 64 tokens: see sampling.py
constexpr int64_t SCAN = 256;               // scores whose maximum is kept while the best are picked one by one
constexpr int64_t WORTH_THREADS = 1 << 15;  // scores to scan from which several threads pay
constexpr int64_t NOISE_COST = 16;          // computing the noise of a score costs as much as scanning so many
constexpr int64_t NOISES = 16;              // positions whose noise is kept, unless a pass has more
constexpr int64_t AHEAD = 8192;             // bytes of weights that are fetched before their turn
constexpr size_t HUGE = 2 << 20;            // bytes of a huge page
constexpr int SPINS = 10000;                // looks at a barrier before a thread sleeps: some tens of microseconds
constexpr uint64_t SLICE = 100'000;         // nanoseconds that a thread runs before it makes room for another
constexpr float LOWEST = -std::numeric_limits<float>::infinity();

typedef float Floats __attribute__((vector_size(4 * LANES)));
typedef int32_t Ints __attribute__((vector_size(4 * LANES)));
typedef uint32_t Words __attribute__((vector_size(4 * LANES)));
typedef uint64_t Longs __attribute__((vector_size(4 * LANES)));
typedef uint16_t Halves __attribute__((vector_size(2 * LANES)));
typedef Floats Sums[VECTORS];  // of the outputs of a panel

enum Kind : int32_t { FLOAT32, BFLOAT16, FLOAT16 };
enum Activation : int32_t { GELU, GELU_TANH, RELU, SILU };
enum Residual : int32_t { SEQUENTIAL, PARALLEL, PARALLEL_SHARED_NORM };

int64_t parts(int64_t size, int64_t unit) { return (size + unit - 1) / unit; }
int64_t rounded_up(int64_t size, int64_t unit) { return parts(size, unit) * unit; }

template <class V, class T> V load(const T* from) {
  V value;
  std::memcpy(&value, from, sizeof value);
  return value;
}
template <class V, class T> void store(T* to, const V& value) { std::memcpy(to, &value, sizeof value); }
Floats loaded(const float* from) { return load<Floats>(from); }

// bfloat16 is the upper half of a float32, rounded to nearest, ties to even.
uint16_t bfloat16(float value) {
  const auto bits = load<uint32_t>(&value);
  return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}
float widened(uint16_t value) {
  const uint32_t bits = static_cast<uint32_t>(value) << 16;
  return load<float>(&bits);
}

// float16 has 5 bits of exponent for float32's 8: shifted into their place they are 2^112 too small. Exact for all
// finite numbers.
Floats from_float16(const uint16_t* from) {
  const Words bits = __builtin_convertvector(load<Halves>(from), Words);
  const Floats size = (Floats)((bits & 0x7fff) << 13) * 0x1p112f;
  return (Floats)((Words)size | (bits & 0x8000) << 16);
}
float one_from_float16(uint16_t value) {
  uint16_t lanes[LANES] = {value};
  return from_float16(lanes)[0];
}

Floats smaller(Floats a, Floats b) { return a < b ? a : b; }
Floats larger(Floats a, Floats b) { return a > b ? a : b; }

template <class Reduce> float reduced(Floats v, Reduce reduce) {  // by halves
  float lanes[LANES];
  store(lanes, v);
  for (int64_t width = LANES / 2; width > 0; width /= 2)
    for (int64_t l = 0; l < width; ++l) lanes[l] = reduce(lanes[l], lanes[l + width]);
  return lanes[0];
}
float total(Floats v) {
  return reduced(v, [](float a, float b) { return a + b; });
}
float highest(Floats v) {
  return reduced(v, [](float a, float b) { return std::max(a, b); });
}

Floats exponential(Floats x) {  // relative error under 2e-7; Cephes' expf
  x = smaller(larger(x, Floats{} - 87.0f), Floats{} + 88.0f);
  const Floats shifted = x * 1.44269504f + 12582912.0f;  // 1.5 * 2^23: leaves a whole number in the lowest bits
  const Floats whole = shifted - 12582912.0f;
  const Floats r = x - whole * 0.693359375f - whole * -2.12194440e-4f;
  Floats p = Floats{} + 1.9875691500e-4f;
  for (float c : {1.3981999507e-3f, 8.3334519073e-3f, 4.1665795894e-2f, 1.6666665459e-1f, 5.0000001201e-1f})
    p = p * r + c;
  p = p * r * r + r + 1.0f;
  return (Floats)((Ints)p + ((Ints)shifted << 23));
}

Floats logarithm(Floats x) {  // of positive normal numbers, relative error under 2e-7; Cephes' logf
  Ints exponent = ((Ints)x >> 23) - 126;
  Floats m = (Floats)(((Ints)x & 0x007fffff) | 0x3f000000);
  const Ints low = m < 0.70710678f;
  exponent += low, m = m + (low ? m : Floats{}) - 1.0f;
  const Floats e = __builtin_convertvector(exponent, Floats), s = m * m;
  Floats p = Floats{} + 7.0376836292e-2f;
  for (float c : {-1.1514610310e-1f, 1.1676998740e-1f, -1.2420140846e-1f, 1.4249322787e-1f, -1.6668057665e-1f,
                  2.0000714765e-1f, -2.4999993993e-1f, 3.3333331174e-1f})
    p = p * m + c;
  return m + (p * m * s + e * -2.12194440e-4f - 0.5f * s) + e * 0.693359375f;
}

Floats error_function(Floats x) {  // absolute error under 4e-7; a rational function, Eigen's
  x = smaller(larger(x, Floats{} - 4.0f), Floats{} + 4.0f);
  const Floats s = x * x;
  Floats p = Floats{} - 2.72614225801306e-10f, q = Floats{} - 1.45660718464996e-05f;
  for (float c : {2.77068142495902e-08f, -2.10102402082508e-06f, -5.69250639462346e-05f, -7.34990630326855e-04f,
                  -2.95459980854025e-03f, -1.60960333262415e-02f})
    p = p * s + c;
  for (float c : {-2.13374055278905e-04f, -1.68282697438203e-03f, -7.37332916720468e-03f, -1.42647390514189e-02f})
    q = q * s + c;
  return x * p / q;
}

Floats hyperbolic_tangent(Floats x) {  // relative error under 3e-7; Cephes' tanhf
  const Floats s = x * x, size = larger(x, -x);
  Floats p = Floats{} - 5.70498872745e-3f;
  for (float c : {2.06390887954e-2f, -5.37397155531e-2f, 1.33314422036e-1f, -3.33332819422e-1f}) p = p * s + c;
  const Floats far = 1.0f - 2.0f / (exponential(2.0f * size) + 1.0f);
  return size < 0.625f ? x + x * s * p : (x < 0.0f ? -far : far);
}

// What stays below a cap, in size, and nearly is x where that is small.
Floats capped(Floats x, float cap) { return cap * hyperbolic_tangent(x / cap); }

// The high and the low words of products of 32 bits by 32 bits.
std::array<Words, 2> product(Words a, uint64_t by) {
  const Longs even = ((Longs)a & 0xffffffff) * by, odd = ((Longs)a >> 32) * by;
  return {(Words)((even >> 32) | (odd & 0xffffffff00000000)), (Words)((even & 0xffffffff) | (odd << 32))};
}

// Four random words for each counter of four: Philox-4x32-10 (Salmon et al. 2011).
std::array<Words, 4> philox(std::array<Words, 4> counter, uint64_t key) {
  auto [a, b, c, d] = counter;
  auto low = static_cast<uint32_t>(key), high = static_cast<uint32_t>(key >> 32);
  for (int round = 0; round < 10; ++round, low += 0x9e3779b9, high += 0xbb67ae85) {
    const auto left = product(a, 0xd2511f53), right = product(c, 0xcd9e8d57);
    a = right[0] ^ b ^ low, c = left[0] ^ d ^ high;
    b = right[1], d = left[1];
  }
  return {a, b, c, d};
}

// Standard Gumbel noise: -log of an exponential, which is -log(1 - u) for a uniform u, or its series.
Floats gumbel(Words bits) {
  const Floats u = smaller(__builtin_convertvector(bits, Floats) * 0x1p-32f + 0x1p-33f, Floats{} + (1.0f - 0x1p-24f));
  const Floats series = u * (1.0f + u * (0.5f + u * (1.0f / 3.0f + u * 0.25f)));
  return -logarithm(u < 1.0f / 64.0f ? series : -logarithm(1.0f - u));
}

Floats activated(Floats x, int32_t activation) {
  switch (activation) {
    case RELU: return larger(x, Floats{});
    case SILU: return x / (1.0f + exponential(-x));
    case GELU: return 0.5f * x * (1.0f + error_function(x * 0.70710678f));
    default: {
      const Floats u = 0.79788456f * (x + 0.044715f * x * x * x);
      return x - x / (1.0f + exponential(2.0f * u));  // x (1 + tanh u) / 2
    }
  }
}

}  // namespace

extern "C" {

// A weight matrix in panels of as many outputs as dyna_panel says: (N / PANEL, K, PANEL), in bfloat16 (N / PANEL,
// K / 2, PANEL, 2); padded with zeros.
struct Matrix {
  const char* data;
  const float* bias;  // padded to whole panels, or null
  int64_t outputs, inputs;
  int32_t kind;
};

struct Layer {
  const float *norm_weight, *norm_bias, *mlp_norm_weight, *mlp_norm_bias;
  const float *query_norm, *key_norm;  // (head), or with joint head norms (heads, head padded to panels), or null
  const float *attention_out_norm, *mlp_out_norm;  // of what attention and MLP add, or null
  Matrix qkv, out, up, down;  // a gated `up` alternates half a panel of the gate's outputs and half of `up`'s
  int32_t table;              // of rotary angles; -1 without
  int32_t normed;             // whether attention and MLP read normalised values
};

struct Model {
  int32_t hidden, heads, kv_heads, head, rotary, inner, vocabulary, layers;
  int32_t root_mean_square, activation, gated, residual, threads;
  int32_t rounds;  // whether inputs of matrices and the cache are rounded to bfloat16
  int32_t tables;  // of rotary angles
  int32_t joint_head_norms;  // whether the queries of all heads are normalised together, and so the keys
  float epsilon;
  float scale, embedding_scale, residual_scale, logits_scale;  // of scores, embeddings, what is added to them, logits
  float score_cap, logits_cap;  // see `capped`; 0 without
  int32_t embedding_kind;
  const char* embedding;   // (vocabulary, hidden), or null where it is the head's own matrix
  const float* positions;  // (positions, hidden), learned, or null
  const float *cosine, *sine;  // (positions, tables, rotary), or null
  const float *norm_weight, *norm_bias;
  Matrix head_matrix;
};

}  // extern "C"

namespace {

// So that vectors of 64 bytes do not straddle cache lines, and what is large lies in huge pages.
template <class T> struct Aligned {
  using value_type = T;
  Aligned() = default;
  template <class U> Aligned(const Aligned<U>&) {}
  static std::align_val_t alignment(size_t count) { return std::align_val_t(count * sizeof(T) < HUGE ? 64 : HUGE); }
  T* allocate(size_t count) {
    void* memory = operator new(count * sizeof(T), alignment(count));
#ifdef __linux__
    if (count * sizeof(T) >= HUGE) madvise(memory, count * sizeof(T), MADV_HUGEPAGE);  // one that it may decline
#endif
    return static_cast<T*>(memory);
  }
  void deallocate(T* from, size_t count) { operator delete(from, alignment(count)); }
  bool operator==(const Aligned&) const = default;
};
template <class T> using Array = std::vector<T, Aligned<T>>;

// Rows of activations, padded to whole panels; `halves` are the same values in bfloat16 where the model rounds.
struct Rows {
  Array<float> floats;
  Array<uint16_t> halves;
  int64_t stride = 0;
  bool rounds = false;

  void shape(int64_t rows, int64_t columns, bool rounds_too) {
    stride = rounded_up(columns, PANEL);
    rounds = rounds_too;
    floats.resize(std::max<size_t>(floats.size(), rows * stride));
    if (rounds) halves.resize(std::max<size_t>(halves.size(), rows * stride));
  }
  float* row(int64_t m) { return floats.data() + m * stride; }
  const float* row(int64_t m) const { return floats.data() + m * stride; }
  template <class T> const T* row_of(int64_t m) const {
    if constexpr (sizeof(T) == 2) return halves.data() + m * stride;
    else return row(m);
  }
  void put(int64_t m, int64_t column, Floats v) {
    if (rounds) {
      const Words bits = (Words)v + 0x7fff + ((Words)v >> 16 & 1);
      store(halves.data() + m * stride + column, __builtin_convertvector(bits >> 16, Halves));
      v = (Floats)(bits & 0xffff0000u);
    }
    store(row(m) + column, v);
  }
  void put(int64_t m, int64_t column, const Sums& panel) {
    for (int64_t v = 0; v < VECTORS; ++v) put(m, column + v * LANES, panel[v]);
  }
  void put(int64_t m, int64_t column, Floats v, int64_t count) {  // only so many of its lanes
    if (count >= LANES) return put(m, column, v);
    for (int64_t l = 0; l < count; ++l) {
      const int64_t at = m * stride + column + l;
      floats[at] = v[l];
      if (rounds) halves[at] = bfloat16(v[l]), floats[at] = widened(halves[at]);
    }
  }
};

// How the weights of a panel are read, `STEP` inputs at a time, and added, times inputs, to the sums of M rows. Up to
// `FEW` rows take two panels at once: that makes sums enough to hide the latency of a product.
struct Float32Weights {
  static constexpr int64_t STEP = 1, BYTES = 4, FEW = LANES < 16 ? 2 : 0;
  typedef std::array<Floats, VECTORS> Vectors;
  static const float* inputs(const Rows& x) { return x.floats.data(); }
  static Vectors read(const char* panel, int64_t k) {
    const auto* from = reinterpret_cast<const float*>(panel) + k * PANEL;
    return {loaded(from), loaded(from + LANES)};
  }
  template <int M> static void add(Sums* sums, const float* x, int64_t stride, const Vectors& w) {
#pragma GCC unroll 16
    for (int m = 0; m < M; ++m)
      for (int64_t v = 0; v < VECTORS; ++v) sums[m][v] += x[m * stride] * w[v];
  }
};
struct Float16Weights : Float32Weights {
  static constexpr int64_t BYTES = 2;
  static Vectors read(const char* panel, int64_t k) {
    const auto* from = reinterpret_cast<const uint16_t*>(panel) + k * PANEL;
    return {from_float16(from), from_float16(from + LANES)};
  }
};
struct BFloat16Weights {  // two inputs of an output share a word
  static constexpr int64_t STEP = 2, BYTES = 2, FEW = Float32Weights::FEW;
  typedef std::array<Words, VECTORS> Vectors;
  static const float* inputs(const Rows& x) { return x.floats.data(); }
  static Vectors read(const char* panel, int64_t k) {
    const auto* from = reinterpret_cast<const uint32_t*>(panel) + k / 2 * PANEL;
    return {load<Words>(from), load<Words>(from + LANES)};
  }
  template <int M> static void add(Sums* sums, const float* x, int64_t stride, const Vectors& w) {
    Float32Weights::add<M>(sums, x, stride, {(Floats)(w[0] << 16), (Floats)(w[1] << 16)});
    Float32Weights::add<M>(sums, x + 1, stride, {(Floats)(w[0] & 0xffff0000u), (Floats)(w[1] & 0xffff0000u)});
  }
};
struct BFloat16Values : Float32Weights {  // two outputs of an input, half a panel apart, share a word
  static constexpr int64_t BYTES = 2;
  static Vectors read(const char* panel, int64_t k) {
    const auto both = load<Words>(reinterpret_cast<const uint32_t*>(panel) + k * PANEL / 2);
    return {(Floats)(both << 16), (Floats)(both & 0xffff0000u)};
  }
};
#ifdef __AVX512BF16__
struct RoundedWeights : BFloat16Weights {  // for inputs that are rounded too
  static constexpr int64_t FEW = 2;
  static const uint16_t* inputs(const Rows& x) { return x.halves.data(); }
  template <int M> static void add(Sums* sums, const uint16_t* x, int64_t stride, const Vectors& w) {
#pragma GCC unroll 16
    for (int m = 0; m < M; ++m) {
      const auto pair = (__m512bh)_mm512_set1_epi32(load<int32_t>(x + m * stride));
      for (int64_t v = 0; v < VECTORS; ++v)
        sums[m][v] = (Floats)_mm512_dpbf16_ps((__m512)sums[m][v], (__m512bh)w[v], pair);
    }
  }
};
#else
using RoundedWeights = BFloat16Weights;
#endif

// Panels of weights, one every `bytes`, with K `inputs`.
struct Panels {
  const char* data;
  int64_t bytes, inputs;
};

// Sums of M rows and P panels, every one over the inputs in ascending order. Each step also fetches the lines at
// `ahead`, as many as it reads, and moves that on by so many bytes.
template <class Weights, int M, int P, class Input>
void multiply_block(const Input* x, int64_t stride, const char* panel, const Panels& w, const char* ahead,
                    int64_t bytes, Sums* sums) {
  Sums totals[P * M];
#pragma GCC unroll 16
  for (int i = 0; i < P * M; ++i)
#pragma GCC unroll 16
    for (int64_t v = 0; v < VECTORS; ++v) totals[i][v] = Floats{};
  for (int64_t k = 0; k < w.inputs; k += Weights::STEP, ahead += bytes) {
    typename Weights::Vectors weights[P];
    for (int p = 0; p < P; ++p) {
      for (int64_t line = 0; M >= PREFETCH_FROM_TOKENS && line < Weights::STEP * PANEL * Weights::BYTES; line += 64)
        __builtin_prefetch(ahead + p * w.bytes + line, 0, 2);
      weights[p] = Weights::read(panel + p * w.bytes, k);
    }
    for (int p = 0; p < P; ++p) Weights::template add<M>(totals + p * M, x + k, stride, weights[p]);
  }
#pragma GCC unroll 16
  for (int i = 0; i < P * M; ++i)
#pragma GCC unroll 16
    for (int64_t v = 0; v < VECTORS; ++v) sums[i][v] = totals[i][v];
}

template <class Weights, class Input, int P, int... M>
auto block_of(int64_t rows, std::integer_sequence<int, M...>) {
  using Block = decltype(&multiply_block<Weights, 1, P, Input>);
  static constexpr Block blocks[] = {multiply_block<Weights, M + 1, P, Input>...};
  return blocks[rows - 1];
}

// Multiplies rows by the panels [from, to) and hands the sums to `take(m, panel, sums)`.
template <class Weights, class Input, class Take>
void multiply(const Input* x, int64_t stride, int64_t rows, const Panels& w, int64_t from, int64_t to, Take take) {
  if (rows == 0) return;  // of a prompt, whose logits nobody asks for
  constexpr int64_t FEW = std::max<int64_t>(Weights::FEW, 1);
  const int64_t blocks = parts(rows, BLOCK), most = rows <= Weights::FEW ? 2 : 1;
  for (int64_t p = from, count; p < to; p += count) {
    count = std::min(most, to - p);
    const char* panel = w.data + p * w.bytes;
    for (int64_t b = 0; b < blocks; ++b) {
      const int64_t first = rows * b / blocks, size = rows * (b + 1) / blocks - first;
      const auto block = count == 2 ? block_of<Weights, Input, 2>(size, std::make_integer_sequence<int, FEW>())
                                    : block_of<Weights, Input, 1>(size, std::make_integer_sequence<int, BLOCK>());
      // Where several blocks read a panel, each meanwhile fetches its share of the next one.
      const int64_t ahead = blocks == 1 ? AHEAD : w.bytes + b * w.bytes / blocks;
      Sums sums[std::max(BLOCK, 2 * FEW)];
      block(x + first * stride, stride, panel, w, panel + ahead, Weights::STEP * PANEL * Weights::BYTES / blocks, sums);
      for (int64_t c = 0; c < count; ++c)
        for (int64_t m = 0; m < size; ++m) take(first + m, p + c, sums[c * size + m]);
    }
  }
}

struct Share {
  int64_t from, to;
};
Share share_of(int64_t tasks) {  // this thread's
  const int64_t thread = omp_get_thread_num(), threads = omp_get_num_threads();
  return {tasks * thread / threads, tasks * (thread + 1) / threads};
}

// This thread's share of the outputs of a matrix; `take(m, first column, outputs)` gets a panel of them.
template <class Take> void linear(const Rows& x, int64_t rows, const Matrix& w, Take take) {
  const auto [from, to] = share_of(parts(w.outputs, PANEL));
  const auto run = [&]<class Weights>(Weights) {
    const int64_t inputs = rounded_up(w.inputs, Weights::STEP);
    const Panels panels{w.data, inputs * PANEL * Weights::BYTES, inputs};
    multiply<Weights>(Weights::inputs(x), x.stride, rows, panels, from, to, [&](int64_t m, int64_t p, Sums& sums) {
      if (w.bias)
        for (int64_t v = 0; v < VECTORS; ++v) sums[v] += loaded(w.bias + p * PANEL + v * LANES);
      take(m, p * PANEL, sums);
    });
  };
  switch (w.kind) {
    case FLOAT32: return run(Float32Weights{});
    case FLOAT16: return run(Float16Weights{});
    default: return x.rounds ? run(RoundedWeights{}) : run(BFloat16Weights{});
  }
}

// What the normalisation of a row of `size` subtracts and multiplies with. RMSNorm leaves the mean alone.
struct Moments {
  float mean = 0, scale = 1;

  Moments() = default;  // of a row that stays as it is
  Moments(const float* x, int64_t size, float epsilon, bool root_mean_square) {
    Floats sums{};
    if (!root_mean_square) {
      for (int64_t k = 0; k < size; k += LANES) sums += loaded(x + k);
      mean = total(sums) / size;
    }
    sums = Floats{};
    Ints lane;
    for (int32_t l = 0; l < LANES; ++l) lane[l] = l;
    for (int64_t k = 0; k < size; k += LANES) {
      const Floats d = lane < static_cast<int32_t>(size - k) ? loaded(x + k) - mean : Floats{};
      sums += d * d;
    }
    scale = 1.0f / std::sqrt(total(sums) / size + epsilon);
  }
};

// Normalises a row that is padded with zeros, as weight and bias are; these may be null.
void normalise(const float* x, int64_t size, Moments moments, const float* weight, const float* bias, Rows& y,
               int64_t m) {
  for (int64_t k = 0; k < size; k += LANES) {
    Floats v = (loaded(x + k) - moments.mean) * moments.scale;
    if (weight) v *= loaded(weight + k);
    if (bias) v += loaded(bias + k);
    y.put(m, k, v);
  }
}

// The cache of one sequence. `length` rows are committed; `parents` and `positions` are those of the uncommitted rows
// after them: which uncommitted row one continues (-1: the committed ones), and its position in the sequence.
struct Cache {
  int64_t length = 0, capacity = 0;
  std::vector<int32_t> parents, positions;
  Array<char> keys, values;  // of every layer and head, see HeadCache
};

// Where the threads of a pass wait for each other. They arrive within microseconds, dozens of times in a pass, so they
// spin: OpenMP's own barrier takes five times as long. They sleep once others seem to need the processor. Nobody waits
// between passes.
struct Barrier {
  std::atomic<int> arrived = 0;
  std::atomic<unsigned> passed = 0;  // may wrap around

  void wait() {
    const unsigned before = passed.load(std::memory_order_relaxed);
    if (arrived.fetch_add(1, std::memory_order_acq_rel) + 1 == omp_get_num_threads()) {
      arrived.store(0, std::memory_order_relaxed);
      passed.store(before + 1, std::memory_order_release);
      return passed.notify_all();
    }
    for (int tries = 0; tries < SPINS; ++tries)
      if (passed.load(std::memory_order_acquire) != before) return;
    passed.wait(before, std::memory_order_acquire);
  }
};

// Lets this thread run soon after it wakes, also where other processes keep the processors busy: Linux (since 6.12)
// lets a thread of short slices go first. Its share of time stays the same. Otherwise every barrier of a pass could
// take one whole slice of each of those processes. Priority and policy remain what they are.
void take_short_slices() {
#ifdef SYS_sched_setattr
  struct {  // the kernel's sched_attr, whose header and the C library's exclude each other
    uint32_t size, policy;
    uint64_t flags;
    int32_t nice;
    uint32_t priority;
    uint64_t runtime, deadline, period;
  } ours{};
  static thread_local bool asked = false;
  if (std::exchange(asked, true) || syscall(SYS_sched_getattr, 0, &ours, sizeof ours, 0) != 0) return;
  if (ours.policy != SCHED_OTHER) return;
  ours.runtime = SLICE;
  syscall(SYS_sched_setattr, 0, &ours, 0);  // no loss where it is refused
#endif
}

// What a thread works with.
struct Scratch {
  Rows normed, mlp_normed, heads, scores;
  Array<float> token_scores, tops;  // of one row, and the highest of each SCAN of them
};

// The uncommitted rows that a token sees: its own and its ancestors', ascending.
struct Seen {
  const int32_t* rows;
  int64_t count;
};

}  // namespace

extern "C" struct State {
  Model model;
  std::vector<Layer> layers;
  Cache cache;
  Rows x, qkv, attended, inner;
  Rows added;  // by attention or MLP, where it is normalised first
  Barrier barrier;
  std::vector<Scratch> scratch;    // of every thread
  std::vector<int32_t> seen_rows;  // of all tokens of the pass, token by token
  std::vector<Seen> seen;          // of every token of the pass
  std::vector<int32_t> positions;  // of the tokens of the latest pass that have logits
  Array<float> logits;             // (rows, stride) of the latest pass
  int64_t logits_stride = 0, logits_rows = 0;
};

namespace {

// Keys are panels whose outputs are rows of the cache, and whose inputs are the dimensions: scores are a product with
// them. Values are panels whose outputs are dimensions and whose inputs are rows.
template <class T> struct HeadCache {
  static constexpr bool ROUNDS = sizeof(T) == 2;
  using Keys = std::conditional_t<ROUNDS, RoundedWeights, Float32Weights>;
  using Values = std::conditional_t<ROUNDS, BFloat16Values, Float32Weights>;
  T *keys, *values;
  int64_t head, depth, capacity;

  HeadCache(State& s, int64_t layer, int64_t h)
      : head(s.model.head), depth(rounded_up(head, Keys::STEP)), capacity(s.cache.capacity) {
    const int64_t index = layer * s.model.kv_heads + h;
    keys = reinterpret_cast<T*>(s.cache.keys.data()) + index * capacity * depth;
    values = reinterpret_cast<T*>(s.cache.values.data()) + index * capacity * rounded_up(head, PANEL);
  }
  static int64_t bytes(const Model& model, int64_t capacity) {  // that suffice for keys, and for values
    return model.layers * model.kv_heads * capacity * rounded_up(model.head, PANEL) * sizeof(T);
  }
  T* key(int64_t row) const { return keys + row / PANEL * depth * PANEL + row % PANEL * Keys::STEP; }
  T* value(int64_t row, int64_t p) const { return values + (p * capacity + row) * PANEL; }

  void write(int64_t row, const T* from_key, const T* from_value) const {  // both padded with zeros
    for (int64_t d = 0; d < depth; d += Keys::STEP) std::copy_n(from_key + d, Keys::STEP, key(row) + d * PANEL);
    for (int64_t p = 0; p < parts(head, PANEL); ++p, from_value += PANEL)
      if constexpr (ROUNDS) {
        for (int64_t j = 0; j < PANEL / 2; ++j)  // as BFloat16Values reads them
          value(row, p)[2 * j] = from_value[j], value(row, p)[2 * j + 1] = from_value[j + PANEL / 2];
      } else {
        std::copy_n(from_value, PANEL, value(row, p));
      }
  }
  void move(int64_t from, int64_t to) const {
    for (int64_t d = 0; d < depth; d += Keys::STEP)
      std::copy_n(key(from) + d * PANEL, Keys::STEP, key(to) + d * PANEL);
    for (int64_t p = 0; p < parts(head, PANEL); ++p) std::copy_n(value(from, p), PANEL, value(to, p));
  }
  Panels key_panels() const {
    return {reinterpret_cast<const char*>(keys), static_cast<int64_t>(depth * PANEL * sizeof(T)), depth};
  }
  Panels value_panels(int64_t rows) const {
    return {reinterpret_cast<const char*>(values), static_cast<int64_t>(capacity * PANEL * sizeof(T)), rows};
  }
};

// By which a layer rotates at a position: cosine and sine, (rotary), or null where it does not.
struct Angles {
  const float *cosine, *sine;
};
Angles angles_of(const Model& model, const Layer& layer, int64_t position) {
  if (!model.cosine || layer.table < 0) return {};
  const int64_t start = (position * model.tables + layer.table) * model.rotary;
  return {model.cosine + start, model.sine + start};
}

// How a head is normalised: by these weights, or not where they are null, with the moments of so many values.
struct HeadNorm {
  const float *weight, *values;
  int64_t size;
};
HeadNorm head_norm(const Model& model, const float* weights, const float* heads, int64_t count, int64_t h) {
  if (model.joint_head_norms) return {weights + h * rounded_up(model.head, PANEL), heads, count * model.head};
  return {weights, heads + h * model.head, model.head};
}

// Copies a head's query, key or value to a row that is padded with zeros; rotated where there are angles, and
// normalised where there are weights for that.
void copy_head(const Model& model, const float* from, HeadNorm norm, Angles angles, Rows& to, int64_t m) {
  const int64_t D = model.head, half = model.rotary / 2;
  float* head = to.row(m);
  std::copy_n(from, D, head);
  std::fill(head + D, head + to.stride, 0.0f);
  if (norm.weight)
    normalise(head, D, Moments(norm.values, norm.size, model.epsilon, true), norm.weight, nullptr, to, m);
  if (angles.cosine)
    for (int64_t j = 0; j < half; ++j) {
      const float a = head[j], b = head[j + half];
      head[j] = a * angles.cosine[j] - b * angles.sine[j];
      head[j + half] = b * angles.cosine[j + half] + a * angles.sine[j + half];
    }
  for (int64_t d = 0; d < D; d += LANES) to.put(m, d, loaded(head + d));
}

// Writes this thread's share of the keys and values of the pass.
template <class T> void write_cache(State& s, int64_t layer, int64_t rows, int64_t first, Scratch& scratch) {
  const Model& model = s.model;
  const Layer& own = s.layers[layer];
  const int64_t D = model.head;
  const auto [from, to] = share_of(rows * model.kv_heads);
  for (int64_t task = from; task < to; ++task) {
    const int64_t m = task / model.kv_heads, h = task % model.kv_heads, row = s.cache.length + first + m;
    const HeadCache<T> cache(s, layer, h);
    const float *keys = s.qkv.row(m) + model.heads * D, *values = keys + model.kv_heads * D;
    copy_head(model, keys + h * D, head_norm(model, own.key_norm, keys, model.kv_heads, h),
              angles_of(model, own, s.cache.positions[first + m]), scratch.heads, 0);
    copy_head(model, values + h * D, {}, {}, scratch.heads, 1);
    cache.write(row, scratch.heads.row_of<T>(0), scratch.heads.row_of<T>(1));
  }
}

// Softmax in place over `count` scores, but for the division by their sum, which it returns. There is room for a whole
// vector after them. A score stands at its token's position, so the order of the sum does not depend on cache rows.
float softmax(float* scores, int64_t count, float scale) {
  const int64_t size = rounded_up(count, LANES);
  std::fill(scores + count, scores + size, LOWEST);
  Floats tops = Floats{} + LOWEST, sums{};
  for (int64_t r = 0; r < size; r += LANES) tops = larger(tops, loaded(scores + r));
  const float top = highest(tops);
  for (int64_t r = 0; r < size; r += LANES) {
    const Floats p = exponential((loaded(scores + r) - top) * scale);
    store(scores + r, p);
    sums += p;
  }
  return total(sums);
}

// This thread's share of the attention of all tokens: tasks are a few queries each that read the same keys.
template <class T> void attention(State& s, int64_t layer, int64_t rows, int64_t first, Scratch& scratch) {
  using Values = typename HeadCache<T>::Values;
  const Model& model = s.model;
  const Layer& own = s.layers[layer];
  const int64_t D = model.head, group = model.heads / model.kv_heads, length = s.cache.length;
  const int64_t end = length + static_cast<int64_t>(s.cache.parents.size()), blocks = parts(rows * group, QUERIES);
  Rows &queries = scratch.heads, &scores = scratch.scores;
  const auto [from, to] = share_of(model.kv_heads * blocks);
  for (int64_t task = from; task < to; ++task) {
    const int64_t kv_head = task / blocks, begin = task % blocks * QUERIES;
    const int64_t count = std::min(QUERIES, rows * group - begin);
    const HeadCache<T> cache(s, layer, kv_head);
    const auto token = [&](int64_t q) { return (begin + q) / group; };
    const auto head = [&](int64_t q) { return kv_head * group + (begin + q) % group; };
    for (int64_t q = 0; q < count; ++q) {
      const float* heads = s.qkv.row(token(q));
      copy_head(model, heads + head(q) * D, head_norm(model, own.query_norm, heads, model.heads, head(q)),
                angles_of(model, own, s.cache.positions[first + token(q)]), queries, q);
    }
    using Keys = typename HeadCache<T>::Keys;
    multiply<Keys>(Keys::inputs(queries), queries.stride, count, cache.key_panels(), 0, parts(end, PANEL),
                   [&](int64_t q, int64_t p, const Sums& sums) { scores.put(q, p * PANEL, sums); });
    float shares[QUERIES];
    for (int64_t q = 0; q < count; ++q) {
      const Seen seen = s.seen[token(q)];
      float* uncommitted = scores.row(q) + length;
      for (int64_t j = 0; j < seen.count; ++j) uncommitted[j] = uncommitted[seen.rows[j]];
      const int64_t size = length + seen.count;
      if (model.score_cap)
        for (float* score = scores.row(q); score < scores.row(q) + size; score += LANES)
          store(score, capped(loaded(score) * model.scale, model.score_cap));
      shares[q] = 1.0f / softmax(scores.row(q), size, model.score_cap ? 1.0f : model.scale);
    }
    const Panels values = cache.value_panels(length);
    multiply<Values>(scores.row(0), scores.stride, count, values, 0, parts(D, PANEL),
                     [&](int64_t q, int64_t p, Sums& sums) {
                       const Seen seen = s.seen[token(q)];
                       for (int64_t j = 0; j < seen.count; ++j)
                         Values::template add<1>(&sums, scores.row(q) + length + j, 0,
                                                 Values::read(values.data + p * values.bytes, length + seen.rows[j]));
                       for (int64_t v = 0; v < VECTORS; ++v) {
                         const int64_t d = p * PANEL + v * LANES;
                         s.attended.put(token(q), head(q) * D + d, sums[v] * shares[q], D - d);
                       }
                     });
  }
}

// Looks up this thread's share of the columns of all tokens' embeddings.
void embed(State& s, const int32_t* tokens, int64_t rows, int64_t first) {
  const Model& model = s.model;
  const Matrix& tied = model.head_matrix;
  const int32_t kind = model.embedding ? model.embedding_kind : tied.kind;
  const int64_t H = model.hidden, bytes = kind == FLOAT32 ? 4 : 2;
  const int64_t step = !model.embedding && kind == BFLOAT16 ? 2 : 1;  // inputs that stand side by side in a panel
  const int64_t apart = model.embedding ? 1 : PANEL * step;
  const float scale = model.embedding_scale;
  const auto [from, to] = share_of(s.x.stride / PANEL);
  for (int64_t m = 0; m < rows; ++m) {
    const int64_t token = tokens[m], start = model.embedding ? token * H
        : token / PANEL * PANEL * rounded_up(H, step) + token % PANEL * step;
    const char* data = (model.embedding ? model.embedding : tied.data) + start * bytes;
    const float* positions = model.positions ? model.positions + s.cache.positions[first + m] * H : nullptr;
    float* x = s.x.row(m);
    for (int64_t k = from * PANEL; k < std::min(H, to * PANEL); ++k) {
      const char* at = data + (k / step * apart + k % step) * bytes;
      const float value = kind == FLOAT32   ? load<float>(at)
                          : kind == FLOAT16 ? one_from_float16(load<uint16_t>(at))
                                            : widened(load<uint16_t>(at));
      x[k] = value * scale + (positions ? positions[k] : 0.0f);
    }
    for (int64_t k = std::max(H, from * PANEL); k < to * PANEL; ++k) x[k] = 0;
  }
}

template <class T> void run_layer(State& s, int64_t index, int64_t rows, int64_t first, Scratch& scratch) {
  const Model& model = s.model;
  const Layer& layer = s.layers[index];
  // Adds the outputs of a matrix to x, normalised where there are weights for that: by this thread its share of columns.
  const auto add_to_x = [&, scale = model.residual_scale](const Rows& input, const Matrix& matrix, const float* norm) {
    if (!norm)
      return linear(input, rows, matrix, [&](int64_t m, int64_t column, const Sums& sums) {
        float* x = s.x.row(m) + column;
        for (int64_t v = 0; v < VECTORS; ++v) store(x + v * LANES, loaded(x + v * LANES) + sums[v] * scale);
      });
    linear(input, rows, matrix, [&](int64_t m, int64_t column, const Sums& sums) { s.added.put(m, column, sums); });
    s.barrier.wait();
    const auto [from, to] = share_of(s.x.stride / LANES);
    for (int64_t m = 0; m < rows; ++m) {
      const float* added = s.added.row(m);
      float* x = s.x.row(m);
      const Moments moments(added, model.hidden, model.epsilon, model.root_mean_square);
      for (int64_t k = from * LANES; k < to * LANES; k += LANES) {
        const Floats normed = (loaded(added + k) - moments.mean) * moments.scale * loaded(norm + k);
        store(x + k, loaded(x + k) + normed * scale);
      }
    }
  };
  const auto feed_forward = [&](const Rows& input) {
    const int64_t outputs = model.gated ? VECTORS / 2 : VECTORS;
    linear(input, rows, layer.up, [&](int64_t m, int64_t column, const Sums& sums) {
      if (model.gated) column /= 2;
      for (int64_t v = 0; v < outputs; ++v) {
        const Floats value = activated(sums[v], model.activation);
        s.inner.put(m, column + v * LANES, model.gated ? value * sums[v + outputs] : value);
      }
    });
  };
  const bool parallel = model.residual != SEQUENTIAL;
  // Every thread normalises for itself: that costs less than to wait for the others.
  const auto norms = [&](bool attention, bool mlp) {
    for (int64_t m = 0; m < rows; ++m) {
      const float* x = s.x.row(m);
      const Moments moments =
          layer.normed ? Moments(x, model.hidden, model.epsilon, model.root_mean_square) : Moments();
      if (attention) normalise(x, model.hidden, moments, layer.norm_weight, layer.norm_bias, scratch.normed, m);
      if (mlp) normalise(x, model.hidden, moments, layer.mlp_norm_weight, layer.mlp_norm_bias, scratch.mlp_normed, m);
    }
  };
  norms(true, model.residual == PARALLEL);
  linear(scratch.normed, rows, layer.qkv,
         [&](int64_t m, int64_t column, const Sums& sums) { s.qkv.put(m, column, sums); });
  if (parallel) feed_forward(model.residual == PARALLEL ? scratch.mlp_normed : scratch.normed);
  s.barrier.wait();
  write_cache<T>(s, index, rows, first, scratch);
  s.barrier.wait();
  attention<T>(s, index, rows, first, scratch);
  s.barrier.wait();
  add_to_x(s.attended, layer.out, layer.attention_out_norm);
  if (!parallel) {
    s.barrier.wait();
    norms(false, true);
    feed_forward(scratch.mlp_normed);
    s.barrier.wait();
  }
  add_to_x(s.inner, layer.down, layer.mlp_out_norm);
  s.barrier.wait();
}

template <class T> void run(State& s, const int32_t* tokens, int64_t rows, int64_t first, int64_t logits_from) {
  const Model& model = s.model;
  for (Scratch& scratch : s.scratch) {  // here, where a lack of memory can be told
    scratch.normed.shape(rows, model.hidden, model.rounds), scratch.mlp_normed.shape(rows, model.hidden, model.rounds);
    scratch.heads.shape(QUERIES, model.head, model.rounds);
    scratch.scores.shape(QUERIES, s.cache.capacity + LANES, false);
  }
#pragma omp parallel num_threads(model.threads)
  {
    take_short_slices();
    Scratch& scratch = s.scratch[omp_get_thread_num()];
    embed(s, tokens, rows, first);
    s.barrier.wait();
    for (int64_t layer = 0; layer < model.layers; ++layer) run_layer<T>(s, layer, rows, first, scratch);
    for (int64_t m = logits_from; m < rows; ++m) {
      const float* x = s.x.row(m);
      const Moments moments(x, model.hidden, model.epsilon, model.root_mean_square);
      normalise(x, model.hidden, moments, model.norm_weight, model.norm_bias, scratch.normed, m - logits_from);
    }
    linear(scratch.normed, rows - logits_from, model.head_matrix,
           [&s, scale = model.logits_scale, cap = model.logits_cap](int64_t m, int64_t column, const Sums& sums) {
             float* logits = s.logits.data() + m * s.logits_stride + column;
             for (int64_t v = 0; v < VECTORS; ++v)
               store(logits + v * LANES, cap ? capped(sums[v] * scale, cap) : sums[v] * scale);
           });
  }
}

template <class T> void move_row(State& s, int64_t from, int64_t to) {
  for (int64_t layer = 0; layer < s.model.layers; ++layer)
    for (int64_t h = 0; h < s.model.kv_heads; ++h) HeadCache<T>(s, layer, h).move(from, to);
}

// The noise that a key gives each token at a position, which is sampling.py's up to rounding. `blocks` of 4 COUNTERS
// tokens are there.
struct NoiseAt {
  uint32_t position = 0;
  int64_t blocks = 0;
  Array<float> values;

  void fill(uint64_t key, int64_t from, int64_t to) {
    Words lane;
    for (uint32_t l = 0; l < LANES; ++l) lane[l] = l;
    for (int64_t block = from; block < to; ++block)
      for (int64_t counter = 0; counter < COUNTERS; counter += LANES) {
        const auto first = static_cast<uint32_t>(block * COUNTERS + counter);
        const auto words = philox({lane + first, Words{} + position, Words{}, Words{}}, key);
        for (int64_t word = 0; word < 4; ++word)
          store(values.data() + (4 * block + word) * COUNTERS + counter, gumbel(words[word]));
      }
  }
};

// The noise of the latest positions. Target and draft, which one thread calls in turn, share it: tokens at the same
// position have the same, and computing it costs more than a small model's pass.
struct Noise {
  uint64_t key = 0;
  std::vector<NoiseAt> kept = std::vector<NoiseAt>(NOISES);

  NoiseAt& at(uint32_t position) { return kept[position % kept.size()]; }

  // Computes what is missing for `size` tokens after each that has logits. Throws where memory does not suffice.
  void prepare(const State& s, int64_t size, uint64_t its_key) {
    if (s.positions.empty()) return;
    const int64_t blocks = parts(size, 4 * COUNTERS);
    const auto [lowest, highest] = std::minmax_element(s.positions.begin(), s.positions.end());
    const size_t range = *highest - *lowest + 1;
    if (kept.size() < range) kept.assign(range, {});
    if (std::exchange(key, its_key) != its_key)
      for (NoiseAt& noise : kept) noise.blocks = 0;
    std::vector<NoiseAt*> missing;
    for (const int32_t position : s.positions) {
      const auto next = static_cast<uint32_t>(position + 1);
      NoiseAt& noise = at(next);
      if (noise.position != next) noise.position = next, noise.blocks = 0;
      if (noise.blocks >= blocks) continue;
      noise.values.resize(std::max<size_t>(noise.values.size(), blocks * 4 * COUNTERS));
      if (std::find(missing.begin(), missing.end(), &noise) == missing.end()) missing.push_back(&noise);
    }
    const int64_t work = missing.size() * size * NOISE_COST;
#pragma omp parallel num_threads(s.model.threads) if (work > WORTH_THREADS)
    for (NoiseAt* noise : missing) {
      const auto [from, to] = share_of(blocks - noise->blocks);
      noise->fill(its_key, noise->blocks + from, noise->blocks + to);
    }
    for (NoiseAt* noise : missing) noise->blocks = blocks;
  }
};
thread_local Noise noise_of_thread;

// Writes scores: logits, or at a temperature above 0, logits / temperature + noise.
void scores_of(const State& s, int64_t m, int64_t size, float temperature, Noise& noise, float* to) {
  const float* logits = s.logits.data() + m * s.logits_stride;
  if (temperature == 0) {
    std::copy_n(logits, size, to);
    return;
  }
  const float* added = noise.at(s.positions[m] + 1).values.data();
  int64_t t = 0;
  for (; t + LANES <= size; t += LANES) store(to + t, loaded(logits + t) / temperature + loaded(added + t));
  for (; t < size; ++t) to[t] = logits[t] / temperature + added[t];
}

float highest(const float* scores, int64_t size) {
  Floats tops[4];
  for (Floats& top : tops) top = Floats{} + LOWEST;
  int64_t t = 0;
  for (; t + 4 * LANES <= size; t += 4 * LANES)
    for (int64_t v = 0; v < 4; ++v) tops[v] = larger(tops[v], loaded(scores + t + v * LANES));
  float top = highest(larger(larger(tops[0], tops[1]), larger(tops[2], tops[3])));
  return t < size ? std::max(top, *std::max_element(scores + t, scores + size)) : top;
}

int64_t first_of(const float* scores, int64_t size, float wanted) {  // 0 where there is none: among NaNs
  int64_t t = 0;
  const auto in_vector = [&] {
    const Ints equal = loaded(scores + t) == wanted;
    int32_t any = 0;
    for (int64_t l = 0; l < LANES; ++l) any |= equal[l];
    return any != 0;
  };
  while (t + LANES <= size && !in_vector()) t += LANES;
  while (t < size && scores[t] != wanted) ++t;
  return t < size ? t : 0;
}

// Whether there was memory for some work: an exception must not leave this library.
template <class Work> int32_t fits(Work work) noexcept {
  try {
    work();
    return 1;
  } catch (const std::bad_alloc&) {
    return 0;
  } catch (const std::length_error&) {
    return 0;
  }
}

// Makes ready what threads need for scores of so many tokens, before they run: nobody could catch an exception in them.
// Returns false where memory does not suffice.
bool ready_to_score(State& s, int64_t scores, float temperature, uint64_t key, Noise& noise) {
  return fits([&] {
    if (temperature > 0) noise.prepare(s, scores, key);
    for (Scratch& scratch : s.scratch) {
      if (static_cast<int64_t>(scratch.token_scores.size()) >= scores) continue;
      scratch.tops.resize(parts(scores, SCAN)), scratch.token_scores.resize(scores);
    }
  });
}

}  // namespace

extern "C" {

int64_t dyna_panel() { return PANEL; }

State* dyna_open(const Model* model, const Layer* layers) {
  auto* s = new State{};
  s->model = *model, s->layers.assign(layers, layers + model->layers), s->scratch.resize(model->threads);
  return s;
}
void dyna_close(State* s) { delete s; }

// Empties the cache and makes room for `capacity` rows; the rotary tables cover as many positions, or are null. Returns
// 0 where memory does not suffice.
int32_t dyna_reserve(State* s, int64_t capacity, const float* cosine, const float* sine) {
  Cache& cache = s->cache;
  for (NoiseAt& noise : noise_of_thread.kept) noise.blocks = 0;  // a text that is decoded again is no cheaper
  s->model.cosine = cosine, s->model.sine = sine;
  cache.length = 0, cache.parents.clear(), cache.positions.clear();
  if (cache.capacity >= capacity) return 1;
  const int64_t rows = rounded_up(capacity, PANEL);
  const int64_t bytes = (s->model.rounds ? HeadCache<uint16_t>::bytes : HeadCache<float>::bytes)(s->model, rows);
  cache.capacity = 0;
  const int32_t done = fits([&] { cache.keys.assign(bytes, 0), cache.values.assign(bytes, 0); });
  if (done) cache.capacity = rows;
  return done;
}

// Writes rows after those written so far. `parents` are uncommitted rows, counted from 0; -1 is the last committed
// one. Logits are kept for the tokens from `logits_from` on. Returns 0 where memory does not suffice.
int32_t dyna_extend(State* s, const int32_t* tokens, const int32_t* parents, int64_t rows, int64_t logits_from) {
  return fits([&] {
    const Model& model = s->model;
    Cache& cache = s->cache;
    const auto first = static_cast<int32_t>(cache.parents.size()), length = static_cast<int32_t>(cache.length);
    size_t seen = 0;
    for (int64_t m = 0; m < rows; ++m) {
      cache.parents.push_back(parents[m]);
      cache.positions.push_back(parents[m] < 0 ? length : cache.positions[parents[m]] + 1);
      seen += cache.positions.back() - length + 1;
    }
    s->seen_rows.resize(seen), s->seen.resize(rows);
    int32_t* free = s->seen_rows.data();
    for (int32_t m = 0; m < rows; ++m) {
      const int32_t count = cache.positions[first + m] - length + 1;
      s->seen[m] = {free, count};
      free += count;
      for (int32_t row = first + m, *at = free; row >= 0; row = cache.parents[row]) *--at = row;
    }
    s->x.shape(rows, model.hidden, false), s->qkv.shape(rows, (model.heads + 2 * model.kv_heads) * model.head, false);
    if (s->layers[0].attention_out_norm) s->added.shape(rows, model.hidden, false);
    s->attended.shape(rows, model.heads * model.head, model.rounds), s->inner.shape(rows, model.inner, model.rounds);
    s->logits_stride = rounded_up(model.vocabulary, PANEL), s->logits_rows = rows - logits_from;
    s->logits.resize(std::max<size_t>(s->logits.size(), s->logits_rows * s->logits_stride));
    s->positions.assign(cache.positions.end() - s->logits_rows, cache.positions.end());
    if (model.rounds) run<uint16_t>(*s, tokens, rows, first, logits_from);
    else run<float>(*s, tokens, rows, first, logits_from);
  });
}

// Commits these uncommitted rows, which are ascending, in that order, and forgets the others.
void dyna_keep(State* s, const int32_t* rows, int64_t count) {
  Cache& cache = s->cache;
  for (int64_t j = 0; j < count; ++j)
    if (rows[j] != j) {
      if (s->model.rounds) move_row<uint16_t>(*s, cache.length + rows[j], cache.length + j);
      else move_row<float>(*s, cache.length + rows[j], cache.length + j);
    }
  cache.length += count, cache.parents.clear(), cache.positions.clear();
}

const float* dyna_logits(State* s) { return s->logits.data(); }

// The token with the highest score at every row with logits; of equal ones the first. Returns 0 where memory does not
// suffice.
int32_t dyna_choose(State* s, float temperature, uint64_t key, int32_t* tokens) {
  const int64_t size = s->model.vocabulary;
  Noise& noise = noise_of_thread;
  if (temperature > 0 && !ready_to_score(*s, size, temperature, key, noise)) return 0;
#pragma omp parallel for schedule(static) num_threads(s->model.threads) if (s->logits_rows * size > WORTH_THREADS)
  for (int64_t m = 0; m < s->logits_rows; ++m) {
    const float* scores = s->logits.data() + m * s->logits_stride;
    if (temperature > 0) {
      float* noisy = s->scratch[omp_get_thread_num()].token_scores.data();
      scores_of(*s, m, size, temperature, noise, noisy);
      scores = noisy;
    }
    tokens[m] = static_cast<int32_t>(first_of(scores, size, highest(scores, size)));
  }
  return 1;
}

// The `branch` best of the first `proposable` tokens at every row, best first, and their log-probabilities; both
// (rows, branch). Returns 0 where memory does not suffice.
int32_t dyna_top_k(State* s, int64_t branch, int64_t proposable, float temperature, uint64_t key, int32_t* tokens,
                  float* log_probabilities) {
  const int64_t size = rounded_up(proposable, SCAN), count = size / SCAN;
  Noise& noise = noise_of_thread;
  if (!ready_to_score(*s, size, temperature, key, noise)) return 0;
#pragma omp parallel for schedule(static) num_threads(s->model.threads) if (s->logits_rows > 1)
  for (int64_t m = 0; m < s->logits_rows; ++m) {
    Scratch& scratch = s->scratch[omp_get_thread_num()];
    float *scores = scratch.token_scores.data(), *tops = scratch.tops.data();
    std::fill(scores + proposable, scores + size, LOWEST);
    scores_of(*s, m, proposable, temperature, noise, scores);
    for (int64_t v = 0; v < count; ++v) tops[v] = highest(scores + v * SCAN, SCAN);
    const float best = highest(tops, count);
    Floats sums{};
    for (int64_t t = 0; t < size; t += LANES) sums += exponential(loaded(scores + t) - best);
    const float normaliser = best + std::log(total(sums));
    for (int64_t b = 0; b < branch; ++b) {
      const int64_t v = first_of(tops, count, highest(tops, count));
      float* scan = scores + v * SCAN;
      const int64_t t = first_of(scan, SCAN, tops[v]);
      tokens[m * branch + b] = static_cast<int32_t>(v * SCAN + t);
      log_probabilities[m * branch + b] = scan[t] - normaliser;
      scan[t] = LOWEST;
      tops[v] = highest(scan, SCAN);
    }
  }
  return 1;
}

}  // extern "C"
