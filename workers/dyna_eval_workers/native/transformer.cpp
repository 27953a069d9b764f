// Forward passes of a decoder-only transformer on a CPU, over a preallocated cache, for a few tokens at a time.
//
// Weights keep their 16 bits in memory, because at batch 1 the time of a step is the time to read them; sums are
// float32. Every sum runs in an order that depends on its terms alone: not on how many tokens go through at once,
// and not on the rows that hold a token's ancestors. So the logits of a tree node are, bit for bit, those that plain
// decoding computes at the same place, in every dtype.
//
// Shapes: M tokens of this pass, H hidden, D head size, K inputs and N outputs of a matrix.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

#include <omp.h>
#ifdef __AVX512BF16__
#include <immintrin.h>
#endif

namespace {

constexpr int64_t LANES = 16;  // floats in a vector
constexpr int64_t PANEL = 32;  // outputs of a matrix that are computed together
constexpr int64_t BLOCK = 12;  // tokens that share one reading of a panel: their sums fill the registers
constexpr int64_t QUERIES = 4; // queries that share one reading of a head's cache
constexpr int64_t CHUNK = 64;  // dimensions of a head whose weighted sums are kept in registers

typedef float Floats __attribute__((vector_size(64)));
typedef int32_t Ints __attribute__((vector_size(64)));
typedef int64_t Longs __attribute__((vector_size(128)));
typedef uint32_t Words __attribute__((vector_size(64)));
typedef uint16_t Halves __attribute__((vector_size(32)));
typedef _Float16 Float16s __attribute__((vector_size(32)));

enum Kind : int32_t { FLOAT32, BFLOAT16, FLOAT16 };
enum Activation : int32_t { GELU, GELU_TANH, RELU, SILU };
enum Residual : int32_t { SEQUENTIAL, PARALLEL, PARALLEL_SHARED_NORM };

int64_t rounded_up(int64_t size, int64_t unit) { return (size + unit - 1) / unit * unit; }

template <class V, class T> V load(const T* from) {
  V value;
  std::memcpy(&value, from, sizeof value);
  return value;
}
template <class V, class T> void store(T* to, const V& value) { std::memcpy(to, &value, sizeof value); }

Floats widened(const uint16_t* from) {  // bfloat16 is the upper half of a float32
  return (Floats)(__builtin_convertvector(load<Halves>(from), Words) << 16);
}
Floats loaded(const float* from) { return load<Floats>(from); }
Floats loaded(const uint16_t* from) { return widened(from); }

uint16_t bfloat16(float value) {  // rounds to nearest, ties to even
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}
float widened(uint16_t value) {
  const uint32_t bits = static_cast<uint32_t>(value) << 16;
  float wide;
  std::memcpy(&wide, &bits, sizeof wide);
  return wide;
}
void assign(float& to, float value) { to = value; }
void assign(uint16_t& to, float value) { to = bfloat16(value); }

Floats smaller(Floats a, Floats b) { return a < b ? a : b; }
Floats larger(Floats a, Floats b) { return a > b ? a : b; }

Floats exponential(Floats x) {  // relative error under 2e-7; Cephes' expf
  x = smaller(larger(x, Floats{} - 87.0f), Floats{} + 88.0f);
  const Ints n = __builtin_convertvector(x * 1.44269504f + (x < 0 ? Floats{} - 0.5f : Floats{} + 0.5f), Ints);
  const Floats whole = __builtin_convertvector(n, Floats);
  const Floats r = x - whole * 0.693359375f - whole * -2.12194440e-4f;
  Floats p = Floats{} + 1.9875691500e-4f;
  for (float c : {1.3981999507e-3f, 8.3334519073e-3f, 4.1665795894e-2f, 1.6666665459e-1f, 5.0000001201e-1f})
    p = p * r + c;
  p = p * r * r + r + 1.0f;
  return p * (Floats)((n + 127) << 23);
}

Floats error_function(Floats x) {  // absolute error under 2e-7; Abramowitz and Stegun 7.1.26
  const Floats a = larger(x, -x), t = 1.0f / (1.0f + 0.3275911f * a);
  Floats p = Floats{} + 1.061405429f;
  for (float c : {-1.453152027f, 1.421413741f, -0.284496736f, 0.254829592f}) p = p * t + c;
  const Floats y = 1.0f - p * t * exponential(-a * a);
  return x < 0 ? -y : y;
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

// A weight matrix in panels of 32 outputs: (N / 32, K, 32), in bfloat16 (N / 32, K / 2, 32, 2); padded with zeros.
struct Matrix {
  const char* data;
  const float* bias;  // padded to whole panels, or null
  int64_t outputs, inputs;
  int32_t kind;
};

struct Layer {
  const float *norm_weight, *norm_bias, *mlp_norm_weight, *mlp_norm_bias, *query_norm, *key_norm;
  Matrix qkv, out, up, down;  // a gated `up` alternates 16 gate and 16 up outputs
};

struct Model {
  int32_t hidden, heads, key_heads, head, rotary, inner, vocabulary, layers;
  int32_t root_mean_square, activation, gated, residual, threads;
  int32_t rounds;  // whether inputs of matrices and the cache are rounded to bfloat16
  float epsilon, scale;
  int32_t embedding_kind;
  const char* embedding;   // (vocabulary, hidden), or null where it is the head's own matrix
  const float* positions;  // (positions, hidden), learned, or null
  const float *cosine, *sine;  // (positions, rotary), or null
  const float *norm_weight, *norm_bias;
  Matrix head_matrix;
  const Layer* layer;
};

}  // extern "C"

namespace {

// Rows of activations, padded to whole vectors; `halves` are the same values in bfloat16 where the model rounds.
struct Rows {
  std::vector<float> floats;
  std::vector<uint16_t> halves;
  int64_t stride = 0;
  bool rounds = false;

  void shape(int64_t rows, int64_t columns, bool rounds_too) {
    stride = rounded_up(columns, PANEL);
    rounds = rounds_too;
    if (static_cast<int64_t>(floats.size()) < rows * stride) floats.resize(rows * stride);
    if (rounds && static_cast<int64_t>(halves.size()) < rows * stride) halves.resize(rows * stride);
  }
  float* row(int64_t m) { return floats.data() + m * stride; }
  void finish(int64_t m, int64_t from, int64_t to) {  // once columns [from, to) of a row have their values
    if (!rounds) return;
    for (int64_t k = from; k < to; ++k) {
      halves[m * stride + k] = bfloat16(floats[m * stride + k]);
      floats[m * stride + k] = widened(halves[m * stride + k]);
    }
  }
};

// How a panel's weights are read: `STEP` inputs at a time, each as two vectors of 16 outputs.
struct Float32Weights {
  static constexpr int64_t STEP = 1, BYTES = 4;
  static void read(const char* panel, int64_t k, Floats* w) {
    w[0] = loaded(reinterpret_cast<const float*>(panel) + k * PANEL);
    w[1] = loaded(reinterpret_cast<const float*>(panel) + k * PANEL + LANES);
  }
};
struct Float16Weights {
  static constexpr int64_t STEP = 1, BYTES = 2;
  static void read(const char* panel, int64_t k, Floats* w) {
    const auto* from = reinterpret_cast<const uint16_t*>(panel) + k * PANEL;
    w[0] = __builtin_convertvector(load<Float16s>(from), Floats);
    w[1] = __builtin_convertvector(load<Float16s>(from + LANES), Floats);
  }
};
struct BFloat16Weights {
  static constexpr int64_t STEP = 2, BYTES = 2;
  static void read(const char* panel, int64_t k, Floats* w) {
    const auto* from = reinterpret_cast<const uint32_t*>(panel) + k / 2 * PANEL;
    const Words low = load<Words>(from), high = load<Words>(from + LANES);
    w[0] = (Floats)(low << 16), w[1] = (Floats)(high << 16);
    w[2] = (Floats)(low & 0xffff0000u), w[3] = (Floats)(high & 0xffff0000u);
  }
};

template <class Weights, int M>
void multiply(Rows& x, int64_t m0, const char* panel, int64_t inputs, Floats (*sums)[2]) {
  const float* from = x.row(m0);
  Floats total[M][2] = {};
  for (int64_t k = 0; k < inputs; k += Weights::STEP) {
    Floats w[2 * Weights::STEP];
    Weights::read(panel, k, w);
    for (int64_t s = 0; s < Weights::STEP; ++s)
#pragma GCC unroll 12
      for (int m = 0; m < M; ++m) {
        const float value = from[m * x.stride + k + s];
        total[m][0] += value * w[2 * s], total[m][1] += value * w[2 * s + 1];
      }
  }
  std::memcpy(sums, total, sizeof total);
}

#ifdef __AVX512BF16__
template <int M>
void multiply_pairs(Rows& x, int64_t m0, const char* panel, int64_t inputs, Floats (*sums)[2]) {
  const uint16_t* from = x.halves.data() + m0 * x.stride;
  const auto* pairs = reinterpret_cast<const uint32_t*>(panel);
  __m512 total[M][2] = {};
  for (int64_t k = 0; k < inputs; k += 2, pairs += PANEL) {
    const auto low = (__m512bh)load<Words>(pairs), high = (__m512bh)load<Words>(pairs + LANES);
#pragma GCC unroll 12
    for (int m = 0; m < M; ++m) {
      const auto value = (__m512bh)_mm512_set1_epi32(load<int32_t>(from + m * x.stride + k));
      total[m][0] = _mm512_dpbf16_ps(total[m][0], low, value);
      total[m][1] = _mm512_dpbf16_ps(total[m][1], high, value);
    }
  }
  std::memcpy(sums, total, sizeof total);
}
#endif

template <int M>
void multiply_any(Rows& x, int64_t m0, const Matrix& w, const char* panel, int64_t inputs, Floats (*sums)[2]) {
  switch (w.kind) {
    case FLOAT32: return multiply<Float32Weights, M>(x, m0, panel, inputs, sums);
    case FLOAT16: return multiply<Float16Weights, M>(x, m0, panel, inputs, sums);
    default:
#ifdef __AVX512BF16__
      if (x.rounds) return multiply_pairs<M>(x, m0, panel, inputs, sums);
#endif
      return multiply<BFloat16Weights, M>(x, m0, panel, inputs, sums);
  }
}

// `count` is at most M.
template <int M>
void multiply_block(int64_t count, Rows& x, int64_t m0, const Matrix& w, const char* panel, int64_t inputs,
                    Floats (*sums)[2]) {
  if (count == M) return multiply_any<M>(x, m0, w, panel, inputs, sums);
  if constexpr (M > 1) multiply_block<M - 1>(count, x, m0, w, panel, inputs, sums);
}

// Multiplies M rows by a matrix and hands each panel's sums to `take(m, first column, low, high)`. All threads call it.
template <class Take> void linear(Rows& x, int64_t rows, const Matrix& w, Take take) {
  const int64_t panels = rounded_up(w.outputs, PANEL) / PANEL;
  const int64_t inputs = w.kind == BFLOAT16 ? rounded_up(w.inputs, 2) : w.inputs;
  const int64_t bytes = inputs * PANEL * (w.kind == FLOAT32 ? 4 : 2);
  const int64_t blocks = (rows + BLOCK - 1) / BLOCK, block = (rows + blocks - 1) / blocks;  // of about equal size
#pragma omp for schedule(static)
  for (int64_t p = 0; p < panels; ++p) {
    const char* panel = w.data + p * bytes;
    Floats low{}, high{};
    if (w.bias) low = loaded(w.bias + p * PANEL), high = loaded(w.bias + p * PANEL + LANES);
    for (int64_t m0 = 0; m0 < rows; m0 += block) {
      Floats sums[BLOCK][2];
      const int64_t count = std::min(block, rows - m0);
      multiply_block<BLOCK>(count, x, m0, w, panel, inputs, sums);
      for (int64_t m = 0; m < count; ++m) take(m0 + m, p * PANEL, sums[m][0] + low, sums[m][1] + high);
    }
  }
}

float total(Floats v) {
  float sum = 0;
  for (int64_t l = 0; l < LANES; ++l) sum += v[l];
  return sum;
}

// y = x normalised; of LayerNorm, or of RMSNorm, which leaves the mean alone.
void normalise(const float* x, float* y, int64_t size, const float* weight, const float* bias, float epsilon, bool rms) {
  const int64_t whole = size / LANES * LANES;
  Floats sums{};
  float mean = 0, rest = 0;
  if (!rms) {
    for (int64_t k = 0; k < whole; k += LANES) sums += loaded(x + k);
    for (int64_t k = whole; k < size; ++k) rest += x[k];
    mean = (total(sums) + rest) / size;
  }
  sums = Floats{}, rest = 0;
  for (int64_t k = 0; k < whole; k += LANES) {
    const Floats d = loaded(x + k) - mean;
    sums += d * d;
  }
  for (int64_t k = whole; k < size; ++k) rest += (x[k] - mean) * (x[k] - mean);
  const float scale = 1.0f / std::sqrt((total(sums) + rest) / size + epsilon);
  for (int64_t k = 0; k < size; ++k)
    y[k] = (x[k] - mean) * scale * (weight ? weight[k] : 1.0f) + (bias ? bias[k] : 0.0f);
}

// The cache of one sequence. `length` rows are committed; `parents` and `places` belong to the rows behind them:
// which of those rows a row continues (-1: the committed ones), and at which position it stands.
struct Cache {
  int64_t length = 0, capacity = 0;
  std::vector<int32_t> parents, places;
  // Per layer and head: keys in tiles of 16 rows, (tiles, D, 16), and values, (capacity, D rounded up).
  std::vector<char> keys, values;
};

}  // namespace

extern "C" struct State {
  Model model;
  std::vector<Layer> layers;
  Cache cache;
  Rows x, normed, mlp_normed, qkv, attended, inner;
  std::vector<float> logits;  // (rows, stride) of the latest pass
  int64_t logits_stride = 0, logits_rows = 0;
};

namespace {

template <class T> struct HeadCache {
  T *keys, *values;
  int64_t head, value_stride;

  HeadCache(State& s, int64_t layer, int64_t h) {
    const Model& model = s.model;
    head = model.head, value_stride = rounded_up(model.head, LANES);
    const int64_t index = layer * model.key_heads + h;
    keys = reinterpret_cast<T*>(s.cache.keys.data()) + index * s.cache.capacity * head;
    values = reinterpret_cast<T*>(s.cache.values.data()) + index * s.cache.capacity * value_stride;
  }
  T* key_tile(int64_t row) const { return keys + row / LANES * head * LANES; }
  T& key(int64_t row, int64_t d) const { return key_tile(row)[d * LANES + row % LANES]; }
  T* value(int64_t row) const { return values + row * value_stride; }
};

void rotate(float* head, const float* cosine, const float* sine, int64_t rotary) {
  const int64_t half = rotary / 2;
  for (int64_t j = 0; j < half; ++j) {
    const float a = head[j], b = head[j + half];
    head[j] = a * cosine[j] - b * sine[j];
    head[j + half] = b * cosine[j + half] + a * sine[j + half];
  }
}

// Normalises and rotates one token's queries and keys, and writes its cache row.
template <class T> void write_row(State& s, int64_t layer, int64_t m, int64_t row, int32_t place) {
  const Model& model = s.model;
  const Layer& weights = s.layers[layer];
  const int64_t D = model.head;
  float* qkv = s.qkv.row(m);
  for (int64_t h = 0; h < model.heads + model.key_heads; ++h) {
    float* head = qkv + h * D;
    const float* norm = h < model.heads ? weights.query_norm : weights.key_norm;
    if (norm) normalise(head, head, D, norm, nullptr, model.epsilon, true);
    if (model.cosine)
      rotate(head, model.cosine + place * model.rotary, model.sine + place * model.rotary, model.rotary);
  }
  for (int64_t h = 0; h < model.key_heads; ++h) {
    const HeadCache<T> cache(s, layer, h);
    const float *key = qkv + (model.heads + h) * D, *value = key + model.key_heads * D;
    for (int64_t d = 0; d < D; ++d) {
      assign(cache.key(row, d), key[d]);
      assign(cache.value(row)[d], value[d]);
    }
  }
}

// Scores of Q queries against the 16 rows of one tile.
template <int Q, class T>
void score_tile(const T* tile, const float* const* queries, int64_t D, float scale, float* const* scores) {
  Floats sums[Q] = {};
  for (int64_t d = 0; d < D; ++d) {
    const Floats keys = loaded(tile + d * LANES);
#pragma GCC unroll 4
    for (int q = 0; q < Q; ++q) sums[q] += queries[q][d] * keys;
  }
  for (int q = 0; q < Q; ++q) store(scores[q], sums[q] * scale);
}

// Softmax in place over `count` scores; the caller left room for a whole vector behind them.
float softmax(float* scores, int64_t count) {
  float top = -std::numeric_limits<float>::infinity();
  for (int64_t r = 0; r < count; ++r) top = std::max(top, scores[r]);
  for (int64_t r = count; r < rounded_up(count, LANES); ++r) scores[r] = -std::numeric_limits<float>::infinity();
  Longs sums{};  // whole numbers, whose sum does not depend on its order
  for (int64_t r = 0; r < count; r += LANES) {
    const Floats p = exponential(loaded(scores + r) - top);
    store(scores + r, p);
    sums += __builtin_convertvector(__builtin_convertvector(p * 1073741824.0f, Ints), Longs);
  }
  int64_t sum = 0;
  for (int64_t l = 0; l < LANES; ++l) sum += sums[l];
  return static_cast<float>(sum) / 1073741824.0f;
}

// Attention of Q (token, head) pairs that read the same keys. `ancestors[q]` are the rows behind the committed ones
// that a query sees, ascending; `scratch` holds Q rows of scores.
template <int Q, class T>
void attend(const HeadCache<T>& cache, int64_t length, int64_t end, float scale, const float* const* queries,
            const std::vector<int32_t>* const* ancestors, float* const* scratch, float* const* outputs) {
  const int64_t D = cache.head;
  for (int64_t row = 0; row < end; row += LANES) {
    float* scores[Q];
    for (int q = 0; q < Q; ++q) scores[q] = scratch[q] + row;
    score_tile<Q>(cache.key_tile(row), queries, D, scale, scores);
  }
  float sums[Q];
  for (int q = 0; q < Q; ++q) {
    const auto& rows = *ancestors[q];
    const int64_t seen = static_cast<int64_t>(rows.size());
    for (int64_t j = 0; j < seen; ++j) scratch[q][length + j] = scratch[q][length + rows[j]];
    sums[q] = softmax(scratch[q], length + seen);
  }
  for (int64_t from = 0; from < D; from += CHUNK) {
    Floats mixed[Q][CHUNK / LANES] = {};
    const int64_t vectors = std::min(CHUNK, rounded_up(D - from, LANES)) / LANES;
    const auto add = [&](int q, const T* value, float p) {
      for (int64_t v = 0; v < vectors; ++v) mixed[q][v] += p * loaded(value + v * LANES);
    };
    for (int64_t row = 0; row < length; ++row)
      for (int q = 0; q < Q; ++q) add(q, cache.value(row) + from, scratch[q][row]);
    for (int q = 0; q < Q; ++q)
      for (size_t j = 0; j < ancestors[q]->size(); ++j)
        add(q, cache.value(length + (*ancestors[q])[j]) + from, scratch[q][length + j]);
    for (int q = 0; q < Q; ++q)
      for (int64_t d = from; d < std::min(D, from + CHUNK); ++d)
        outputs[q][d] = mixed[q][(d - from) / LANES][(d - from) % LANES] / sums[q];
  }
}

template <class T> void attention(State& s, int64_t layer, int64_t rows, const std::vector<std::vector<int32_t>>& seen) {
  const Model& model = s.model;
  const int64_t D = model.head, group = model.heads / model.key_heads, length = s.cache.length;
  const int64_t end = length + static_cast<int64_t>(s.cache.parents.size());
  const int64_t blocks = rounded_up(rows * group, QUERIES) / QUERIES;
  std::vector<float> scratch(QUERIES * (rounded_up(end, LANES) + LANES));
  float* const scores[QUERIES] = {scratch.data(), scratch.data() + scratch.size() / 4,
                                  scratch.data() + scratch.size() / 2, scratch.data() + scratch.size() / 4 * 3};
#pragma omp for schedule(static)
  for (int64_t task = 0; task < model.key_heads * blocks; ++task) {
    const int64_t key_head = task / blocks, first = task % blocks * QUERIES;
    const int64_t count = std::min(QUERIES, rows * group - first);
    const float* queries[QUERIES];
    float* outputs[QUERIES];
    const std::vector<int32_t>* ancestors[QUERIES];
    for (int64_t q = 0; q < count; ++q) {
      const int64_t m = (first + q) / group, h = key_head * group + (first + q) % group;
      queries[q] = s.qkv.row(m) + h * D, outputs[q] = s.attended.row(m) + h * D, ancestors[q] = &seen[m];
    }
    const HeadCache<T> cache(s, layer, key_head);
    switch (count) {
      case 1: attend<1>(cache, length, end, model.scale, queries, ancestors, scores, outputs); break;
      case 2: attend<2>(cache, length, end, model.scale, queries, ancestors, scores, outputs); break;
      case 3: attend<3>(cache, length, end, model.scale, queries, ancestors, scores, outputs); break;
      default: attend<4>(cache, length, end, model.scale, queries, ancestors, scores, outputs);
    }
    for (int64_t q = 0; q < count; ++q) {
      const int64_t m = (first + q) / group, h = key_head * group + (first + q) % group;
      s.attended.finish(m, h * D, (h + 1) * D);
    }
  }
}

float embedded(const Model& model, int64_t token, int64_t k) {
  const auto number = [](const char* data, int64_t index, int32_t kind) {
    switch (kind) {
      case FLOAT32: return load<float>(reinterpret_cast<const float*>(data) + index);
      case FLOAT16: return static_cast<float>(load<_Float16>(reinterpret_cast<const uint16_t*>(data) + index));
      default: return widened(reinterpret_cast<const uint16_t*>(data)[index]);
    }
  };
  if (model.embedding) return number(model.embedding, token * model.hidden + k, model.embedding_kind);
  const Matrix& w = model.head_matrix;
  const int64_t panel = token / PANEL, lane = token % PANEL;
  if (w.kind == BFLOAT16) {
    const int64_t pairs = rounded_up(w.inputs, 2) / 2;
    return number(w.data, ((panel * pairs + k / 2) * PANEL + lane) * 2 + k % 2, w.kind);
  }
  return number(w.data, (panel * w.inputs + k) * PANEL + lane, w.kind);
}

template <class T>
void run_layer(State& s, int64_t index, int64_t rows, int64_t first, const std::vector<std::vector<int32_t>>& seen) {
  const Model& model = s.model;
  const Layer& layer = s.layers[index];
  const int64_t H = model.hidden;
  const auto norm = [&](Rows& to, int64_t m, const float* weight, const float* bias) {
    normalise(s.x.row(m), to.row(m), H, weight, bias, model.epsilon, model.root_mean_square);
    to.finish(m, 0, H);
  };
  const auto keep = [](Rows& to) {
    return [&to](int64_t m, int64_t column, Floats low, Floats high) {
      store(to.row(m) + column, low), store(to.row(m) + column + LANES, high);
    };
  };
  const auto add_to_x = [&](int64_t m, int64_t column, Floats low, Floats high) {
    float* x = s.x.row(m) + column;
    store(x, loaded(x) + low), store(x + LANES, loaded(x + LANES) + high);
  };
#pragma omp for schedule(static)
  for (int64_t m = 0; m < rows; ++m) {
    norm(s.normed, m, layer.norm_weight, layer.norm_bias);
    if (model.residual == PARALLEL) norm(s.mlp_normed, m, layer.mlp_norm_weight, layer.mlp_norm_bias);
  }
  linear(s.normed, rows, layer.qkv, keep(s.qkv));
#pragma omp for schedule(static)
  for (int64_t m = 0; m < rows; ++m)
    write_row<T>(s, index, m, s.cache.length + first + m, s.cache.places[first + m]);
  attention<T>(s, index, rows, seen);
  linear(s.attended, rows, layer.out, add_to_x);
  if (model.residual == SEQUENTIAL) {
#pragma omp for schedule(static)
    for (int64_t m = 0; m < rows; ++m) norm(s.mlp_normed, m, layer.mlp_norm_weight, layer.mlp_norm_bias);
  }
  Rows& mlp_input = model.residual == PARALLEL_SHARED_NORM ? s.normed : s.mlp_normed;
  linear(mlp_input, rows, layer.up, [&](int64_t m, int64_t column, Floats low, Floats high) {
    const int64_t to = model.gated ? column / 2 : column;
    store(s.inner.row(m) + to, model.gated ? activated(low, model.activation) * high : activated(low, model.activation));
    if (!model.gated) store(s.inner.row(m) + to + LANES, activated(high, model.activation));
    s.inner.finish(m, to, to + (model.gated ? LANES : PANEL));
  });
  linear(s.inner, rows, layer.down, add_to_x);
}

template <class T> void run(State& s, const int32_t* tokens, int64_t rows, int64_t first, int64_t logits_from) {
  const Model& model = s.model;
  const int64_t H = model.hidden;
  std::vector<std::vector<int32_t>> seen(rows);  // a token's own row and its ancestors', ascending
  for (int64_t m = 0; m < rows; ++m) {
    for (int32_t row = static_cast<int32_t>(first + m); row >= 0; row = s.cache.parents[row]) seen[m].push_back(row);
    std::reverse(seen[m].begin(), seen[m].end());
  }
#pragma omp parallel num_threads(model.threads)
  {
#pragma omp for schedule(static)
    for (int64_t m = 0; m < rows; ++m) {
      const int32_t place = s.cache.places[first + m];
      for (int64_t k = 0; k < H; ++k)
        s.x.row(m)[k] = embedded(model, tokens[m], k) + (model.positions ? model.positions[place * H + k] : 0.0f);
      std::fill(s.x.row(m) + H, s.x.row(m) + s.x.stride, 0.0f);
    }
    for (int64_t layer = 0; layer < model.layers; ++layer) run_layer<T>(s, layer, rows, first, seen);
    const int64_t wanted = rows - logits_from;
    if (wanted > 0) {
#pragma omp for schedule(static)
      for (int64_t m = 0; m < wanted; ++m) {
        normalise(s.x.row(logits_from + m), s.normed.row(m), H, model.norm_weight, model.norm_bias, model.epsilon,
                  model.root_mean_square);
        s.normed.finish(m, 0, H);
      }
      linear(s.normed, wanted, model.head_matrix, [&](int64_t m, int64_t column, Floats low, Floats high) {
        store(s.logits.data() + m * s.logits_stride + column, low);
        store(s.logits.data() + m * s.logits_stride + column + LANES, high);
      });
    }
  }
}

template <class T> void move_row(State& s, int64_t from, int64_t to) {
  for (int64_t layer = 0; layer < s.model.layers; ++layer)
    for (int64_t h = 0; h < s.model.key_heads; ++h) {
      const HeadCache<T> cache(s, layer, h);
      for (int64_t d = 0; d < cache.head; ++d) cache.key(to, d) = cache.key(from, d);
      std::copy_n(cache.value(from), cache.value_stride, cache.value(to));
    }
}

float perturbed(const State& s, int64_t m, int64_t token, float temperature, const float* noise, int64_t width) {
  const float logit = s.logits[m * s.logits_stride + token];
  return noise ? logit / temperature + noise[m * width + token] : logit;
}

}  // namespace

extern "C" {

State* dyna_open(const Model* model, const Layer* layers) {
  auto* s = new State{*model, {layers, layers + model->layers}, {}, {}, {}, {}, {}, {}, {}, {}};
  return s;
}
void dyna_close(State* s) { delete s; }

// Empties the cache and makes room for `capacity` rows; the rotary tables cover as many positions, or are null.
void dyna_reserve(State* s, int64_t capacity, const float* cosine, const float* sine) {
  Cache& cache = s->cache;
  s->model.cosine = cosine, s->model.sine = sine;
  cache.length = 0, cache.parents.clear(), cache.places.clear();
  if (cache.capacity >= capacity) return;
  cache.capacity = rounded_up(capacity, LANES);
  const int64_t heads = s->model.layers * s->model.key_heads, bytes = s->model.rounds ? 2 : 4;
  cache.keys.assign(heads * cache.capacity * s->model.head * bytes, 0);
  cache.values.assign(heads * cache.capacity * rounded_up(s->model.head, LANES) * bytes, 0);
}

// Writes rows behind those written so far. `parents` count the rows behind the committed ones; -1 is the last of
// those. Logits are kept for the tokens from `logits_from` on.
void dyna_extend(State* s, const int32_t* tokens, const int32_t* parents, int64_t rows, int64_t logits_from) {
  const Model& model = s->model;
  Cache& cache = s->cache;
  const int64_t first = static_cast<int64_t>(cache.parents.size());
  for (int64_t m = 0; m < rows; ++m) {
    cache.parents.push_back(parents[m]);
    cache.places.push_back(parents[m] < 0 ? static_cast<int32_t>(cache.length) : cache.places[parents[m]] + 1);
  }
  const bool rounds = model.rounds;
  s->x.shape(rows, model.hidden, false), s->qkv.shape(rows, (model.heads + 2 * model.key_heads) * model.head, false);
  s->normed.shape(rows, model.hidden, rounds), s->mlp_normed.shape(rows, model.hidden, rounds);
  s->attended.shape(rows, model.heads * model.head, rounds), s->inner.shape(rows, model.inner, rounds);
  s->logits_stride = rounded_up(model.vocabulary, PANEL), s->logits_rows = rows - logits_from;
  s->logits.resize(std::max<size_t>(s->logits.size(), s->logits_rows * s->logits_stride));
  if (rounds) run<uint16_t>(*s, tokens, rows, first, logits_from);
  else run<float>(*s, tokens, rows, first, logits_from);
}

// Commits the rows at ascending places behind the committed ones, in that order, and forgets the others.
void dyna_keep(State* s, const int32_t* rows, int64_t count) {
  Cache& cache = s->cache;
  for (int64_t j = 0; j < count; ++j)
    if (rows[j] != j) {
      if (s->model.rounds) move_row<uint16_t>(*s, cache.length + rows[j], cache.length + j);
      else move_row<float>(*s, cache.length + rows[j], cache.length + j);
    }
  cache.length += count, cache.parents.clear(), cache.places.clear();
}

const float* dyna_logits(State* s) { return s->logits.data(); }

// The token with the highest score at every row with logits; of equal ones the first. `noise` is (rows, width) or
// null. Scores are logits / temperature + noise.
void dyna_choose(State* s, float temperature, const float* noise, int64_t width, int32_t* tokens) {
#pragma omp parallel for schedule(static) num_threads(s->model.threads) if (s->logits_rows > 1)
  for (int64_t m = 0; m < s->logits_rows; ++m) {
    int64_t best = 0;
    float top = perturbed(*s, m, 0, temperature, noise, width);
    for (int64_t t = 1; t < s->model.vocabulary; ++t) {
      const float score = perturbed(*s, m, t, temperature, noise, width);
      if (score > top) top = score, best = t;
    }
    tokens[m] = static_cast<int32_t>(best);
  }
}

// The `branch` best of the first `proposable` tokens at every row, best first, and their log-probabilities; (rows, branch).
void dyna_rank(State* s, int64_t branch, int64_t proposable, float temperature, const float* noise, int64_t width,
               int32_t* tokens, float* log_probabilities) {
#pragma omp parallel for schedule(static) num_threads(s->model.threads) if (s->logits_rows > 1)
  for (int64_t m = 0; m < s->logits_rows; ++m) {
    const int64_t size = rounded_up(proposable, LANES);
    std::vector<float> scores(size, -std::numeric_limits<float>::infinity()), tops(size / LANES);
    for (int64_t t = 0; t < proposable; ++t) scores[t] = perturbed(*s, m, t, temperature, noise, width);
    const auto top_of = [&](int64_t v) {
      return *std::max_element(scores.begin() + v * LANES, scores.begin() + (v + 1) * LANES);
    };
    for (int64_t v = 0; v < size / LANES; ++v) tops[v] = top_of(v);
    const float best = *std::max_element(tops.begin(), tops.end());
    Floats sums{};
    for (int64_t t = 0; t < size; t += LANES) sums += exponential(loaded(scores.data() + t) - best);
    const float normaliser = best + std::log(total(sums));
    for (int64_t b = 0; b < branch; ++b) {
      const int64_t v = std::max_element(tops.begin(), tops.end()) - tops.begin();
      const int64_t t = std::max_element(scores.begin() + v * LANES, scores.begin() + (v + 1) * LANES) - scores.begin();
      tokens[m * branch + b] = static_cast<int32_t>(t);
      log_probabilities[m * branch + b] = scores[t] - normaliser;
      scores[t] = -std::numeric_limits<float>::infinity();
      tops[v] = top_of(v);
    }
  }
}

}  // extern "C"
