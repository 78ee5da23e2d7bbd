// Folding and its gradient: the published weights that are combined with each other (docs/algebra.md, identities 1 to
// 4). A training step folds every adapter anew, and as operators of torch that takes longer than the kernels do for one
// image.
//
// It reads and writes each weight once: 2 * C * D floats for the matrix down_weight in the gradient, C * D in the
// forward, and some 150 * C for the depthwise kernels. One thread does it in the time that waking a second would take.

#include <cstdint>

#include "ht_kernels.h"
#include "status.h"

namespace {

using i64 = std::int64_t;
constexpr i64 kSide = 7, kTaps = kSide * kSide, kCentre = kTaps / 2;

// The three published kernels of a channel, by side, as (C, side, side), and their biases.
struct Scale {
  i64 side;
  float* kernel;
  float* bias;
};

struct Scales {
  Scale of[3];
  explicit Scales(const ht_fold_parts& p)
      : of{{3, p.kernel3, p.bias3}, {5, p.kernel5, p.bias5}, {7, p.kernel7, p.bias7}} {}
};

// Calls f(i, j) for each tap i of a kernel of this side and its place j in the 7x7 kernel around it.
template <class F>
void for_taps(i64 side, F f) {
  const i64 margin = (kSide - side) / 2;
  for (i64 r = 0; r < side; ++r) {
    for (i64 c = 0; c < side; ++c) f(r * side + c, (r + margin) * kSide + c + margin);
  }
}

// The sum of a[i] * b[i] * c[i]. Sixteen partial sums let the compiler use vectors.
float dot(const float* a, const float* b, const float* c, i64 count) {
  constexpr i64 kLanes = 16;
  float sums[kLanes] = {};
  i64 i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    for (i64 lane = 0; lane < kLanes; ++lane) sums[lane] += a[i + lane] * b[i + lane] * c[i + lane];
  }
  float sum = 0;
  for (; i < count; ++i) sum += a[i] * b[i] * c[i];
  for (float each : sums) sum += each;
  return sum;
}

float gain_of(const ht_fold_shape& n, const ht_fold_parts& p, i64 channel) {
  return n.gains == 0 ? 1.0f : p.gain[n.gains == 1 ? 0 : channel];
}

bool fits(const ht_fold_shape& n, const ht_fold_parts* p, const ht_fold_results* r) {
  return p && r && p->down_weight && p->down_bias && p->norm_weight && p->norm_bias && p->gamma && p->kernel3 &&
         p->kernel5 && p->kernel7 && p->bias3 && p->bias5 && p->bias7 && p->projector && (!n.gains || p->gain) &&
         (!n.hidden || p->hidden_weight) && r->norm_gain && r->down_bias && r->scale_kernels && r->scale_bias &&
         r->mix_weight && (!n.hidden || r->hidden_weight);
}

ht_status check(const ht_fold_shape* n, const ht_fold_parts* p, const ht_fold_results* r) {
  if (!n) return ht::fail(HT_INVALID_ARGUMENT, "shape must not be NULL");
  if (n->dim < 1 || n->bottleneck < 1 || n->hidden < 0) {
    return ht::fail(HT_INVALID_ARGUMENT, "dim and bottleneck must be positive, hidden not negative");
  }
  if (n->gains != 0 && n->gains != 1 && n->gains != n->bottleneck) {
    return ht::fail(HT_INVALID_ARGUMENT, "gains must be 0, 1 or bottleneck, got %lld", (long long)n->gains);
  }
  if (!fits(*n, p, r)) return ht::fail(HT_INVALID_ARGUMENT, "a weight that the shape asks for is NULL");
  return HT_OK;
}

}  // namespace

extern "C" ht_status ht_adapter_fold_cpu(const ht_fold_shape* shape, const ht_fold_parts* parts,
                                         const ht_fold_results* results) {
  const ht_status status = check(shape, parts, results);
  if (status != HT_OK) return status;
  const ht_fold_shape& n = *shape;
  const ht_fold_parts& p = *parts;
  const ht_fold_results& r = *results;
  const i64 channels = n.bottleneck;
  for (i64 d = 0; d < n.dim; ++d) r.norm_gain[d] = p.norm_weight[d] * p.gamma[d];
  for (i64 c = 0; c < channels; ++c) {
    r.down_bias[c] = p.down_bias[c] + dot(p.down_weight + c * n.dim, p.norm_bias, p.gamma, n.dim);
    for (i64 i = 0; i < channels; ++i) r.mix_weight[c * channels + i] = p.projector[c * channels + i] + (c == i);
  }
  // With a noise estimator the scales stay apart. Otherwise their mean is one kernel for every image.
  const Scales scales(p);
  const i64 apart = n.hidden ? 3 : 1;
  for (i64 i = 0; i < apart * channels * kTaps; ++i) r.scale_kernels[i] = 0;
  for (i64 i = 0; i < apart * channels; ++i) r.scale_bias[i] = 0;
  for (i64 s = 0; s < 3; ++s) {
    const Scale& scale = scales.of[s];
    for (i64 c = 0; c < channels; ++c) {
      const i64 at = (apart == 3 ? s : 0) * channels + c;
      const float gain = n.masked ? 1.0f : gain_of(n, p, c);
      const float* kernel = scale.kernel + c * scale.side * scale.side;
      float* sum = r.scale_kernels + at * kTaps;
      for_taps(scale.side, [&](i64 i, i64 j) { sum[j] += gain * kernel[i]; });
      r.scale_bias[at] += scale.bias[c];
    }
  }
  for (i64 i = 0; apart == 1 && i < channels * kTaps; ++i) r.scale_kernels[i] /= 3;
  for (i64 i = 0; apart == 1 && i < channels; ++i) r.scale_bias[i] /= 3;
  for (i64 i = 0; !n.masked && i < apart * channels; ++i) r.scale_kernels[i * kTaps + kCentre] += 1;
  for (i64 q = 0; q < n.hidden; ++q) {
    for (i64 c = 0; c < channels; ++c) {
      r.hidden_weight[q * channels + c] = p.hidden_weight[q * channels + c] * gain_of(n, p, c);
    }
  }
  return HT_OK;
}

extern "C" ht_status ht_adapter_fold_backward_cpu(const ht_fold_shape* shape, const ht_fold_parts* parts,
                                                  const float* down_weight_grad, const ht_fold_results* result_grads,
                                                  const ht_fold_parts* part_grads) {
  ht_status status = check(shape, parts, result_grads);
  if (status == HT_OK) status = check(shape, part_grads, result_grads);
  if (status != HT_OK) return status;
  if (!down_weight_grad) return ht::fail(HT_INVALID_ARGUMENT, "down_weight_grad must not be NULL");
  const ht_fold_shape& n = *shape;
  const ht_fold_parts &p = *parts, &out = *part_grads;
  const ht_fold_results& g = *result_grads;
  const i64 channels = n.bottleneck;
  // out.norm_bias gathers the gradient of norm_bias * gamma first.
  for (i64 d = 0; d < n.dim; ++d) out.norm_bias[d] = 0;
  for (i64 c = 0; c < channels; ++c) {
    const float bias_grad = g.down_bias[c];
    out.down_bias[c] = bias_grad;
    const float *weight = p.down_weight + c * n.dim, *direct = down_weight_grad + c * n.dim;
    float* weight_grad = out.down_weight + c * n.dim;
    for (i64 d = 0; d < n.dim; ++d) {
      weight_grad[d] = direct[d] + bias_grad * p.norm_bias[d] * p.gamma[d];
      out.norm_bias[d] += bias_grad * weight[d];
    }
  }
  for (i64 d = 0; d < n.dim; ++d) {
    const float shift_grad = out.norm_bias[d];
    out.norm_bias[d] = shift_grad * p.gamma[d];
    out.norm_weight[d] = g.norm_gain[d] * p.gamma[d];
    out.gamma[d] = g.norm_gain[d] * p.norm_weight[d] + shift_grad * p.norm_bias[d];
  }
  for (i64 i = 0; i < n.gains; ++i) out.gain[i] = 0;
  const Scales scales(p), scale_grads(out);
  const float share = n.hidden ? 1.0f : 1.0f / 3;
  for (i64 s = 0; s < 3; ++s) {
    const Scale &scale = scales.of[s], &grads = scale_grads.of[s];
    for (i64 c = 0; c < channels; ++c) {
      const i64 at = (n.hidden ? s : 0) * channels + c, start = c * scale.side * scale.side;
      const float gain = n.masked ? 1.0f : gain_of(n, p, c);
      const float* grad = g.scale_kernels + at * kTaps;
      float gain_grad = 0;
      for_taps(scale.side, [&](i64 i, i64 j) {
        grads.kernel[start + i] = share * gain * grad[j];
        gain_grad += share * grad[j] * scale.kernel[start + i];
      });
      grads.bias[c] = share * g.scale_bias[at];
      if (n.gains && !n.masked) out.gain[n.gains == 1 ? 0 : c] += gain_grad;
    }
  }
  for (i64 q = 0; q < n.hidden; ++q) {
    for (i64 c = 0; c < channels; ++c) {
      const i64 i = q * channels + c;
      out.hidden_weight[i] = g.hidden_weight[i] * gain_of(n, p, c);
      if (n.gains) out.gain[n.gains == 1 ? 0 : c] += g.hidden_weight[i] * p.hidden_weight[i];
    }
  }
  for (i64 i = 0; i < channels * channels; ++i) out.projector[i] = g.mix_weight[i];
  return HT_OK;
}
