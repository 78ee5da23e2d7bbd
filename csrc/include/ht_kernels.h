/* C interface of the compiled kernels: plain pointers and sizes, no exceptions, nothing of torch.
 *
 * Notation: B images, N = P + H*W tokens (P prefix tokens, then the patch grid row by row), D token width,
 * C bottleneck width, Q hidden width of the noise estimator, S scales kept apart (1 or 3).
 */
#ifndef HT_KERNELS_H
#define HT_KERNELS_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#ifdef HT_KERNELS_EXPORTS /* set where the shared library is compiled: these functions are what it exports */
#pragma GCC visibility push(default)
#endif

typedef enum { HT_FLOAT32 = 0, HT_BFLOAT16 = 1, HT_FLOAT16 = 2 } ht_dtype;

typedef enum {
  HT_OK = 0,
  HT_INVALID_ARGUMENT = 1,
  HT_CUDA_ERROR = 2,
  HT_FILE_ERROR = 3, /* a file cannot be read, or is not what it should be */
  HT_OUT_OF_MEMORY = 4
} ht_status;

/* Sizes of one adapter call. */
typedef struct {
  int64_t batch;         /* B */
  int64_t dim;           /* D */
  int64_t bottleneck;    /* C */
  int64_t hidden;        /* Q; 0 when S = 1 */
  int64_t scales;        /* S */
  int64_t grid_height;   /* H */
  int64_t grid_width;    /* W */
  int64_t prefix_tokens; /* P */
  int64_t masks;         /* of the spectral filter: 0 for none, 1 for one that all channels share, or C */
  float eps;             /* of the LayerNorm */
} ht_adapter_shape;

/* Tokens (B, N, D) in memory; the last dimension is contiguous, the strides are in elements. */
typedef struct {
  void* data;
  int64_t batch_stride;
  int64_t token_stride;
} ht_tokens;

/* The one list of folded weights: F(name, kind, when) for each. Structs, bindings and checks are made of it; it has the
 * names and the order of ht_kernels.folding.FoldedAdapter, to which the build compares it.
 * kind: MATRIX is in the dtype of tokens on a GPU, FLOATS is float32 everywhere.
 * when: ALWAYS; NOISE when S = 3; MASKED with a spectral filter. Else the field is NULL. */
#define HT_ADAPTER_WEIGHTS(F)                         \
  F(down_weight, MATRIX, ALWAYS)   /* (C, D) */       \
  F(norm_gain, FLOATS, ALWAYS)     /* (D) */          \
  F(skip_gain, FLOATS, ALWAYS)     /* (D) */          \
  F(down_bias, FLOATS, ALWAYS)     /* (C) */          \
  F(scale_kernels, FLOATS, ALWAYS) /* (S, C, 7, 7) */ \
  F(scale_bias, FLOATS, ALWAYS)    /* (S, C) */       \
  F(hidden_weight, FLOATS, NOISE)  /* (Q, C) */       \
  F(hidden_bias, FLOATS, NOISE)    /* (Q) */          \
  F(score_weight, FLOATS, NOISE)   /* (S, Q) */       \
  F(score_bias, FLOATS, NOISE)     /* (S) */          \
  F(mix_weight, MATRIX, ALWAYS)    /* (C, C) */       \
  F(mix_bias, FLOATS, ALWAYS)      /* (C) */          \
  F(up_weight, MATRIX, ALWAYS)     /* (D, C) */       \
  F(up_bias, FLOATS, ALWAYS)       /* (D) */          \
  F(mask, FLOATS, MASKED)          /* (masks, H, W / 2 + 1, 2), real and imaginary parts */

/* On the CPU, contiguous, or their gradients. */
typedef struct {
#define HT_FIELD(name, kind, when) float* name;
  HT_ADAPTER_WEIGHTS(HT_FIELD)
#undef HT_FIELD
} ht_adapter_weights;

/* An adapter of a file. */
typedef struct {
  int64_t block;              /* of the tower: the adapter stands behind it */
  ht_adapter_shape shape;     /* for a batch of 1 */
  ht_adapter_weights weights; /* each aligned to 64 bytes */
} ht_file_adapter;

typedef struct {
  int64_t count;
  ht_file_adapter* adapters; /* (count), by ascending block */
} ht_adapter_list;

/* Reads a file that ht_kernels.deploy.save_adapters wrote in Python, or the size bytes of one, and stores the address
 * of a list, NULL if the call fails. No other call writes to it, so threads may share it. Whatever the bytes are,
 * nothing outside them is read, and no more memory is taken than about twice their size. In a copy of a shape batch and
 * prefix tokens may be changed, and without a spectral filter the grid too. */
ht_status ht_load_adapters(const char* path, ht_adapter_list** list);
ht_status ht_read_adapters(const void* bytes, size_t size, ht_adapter_list** list);

/* Frees a list and its weights; NULL is allowed. */
void ht_free_adapters(ht_adapter_list* list);

/* How many bytes of memory, aligned to 64, ht_adapter_prepare_cpu fills. This and the workspaces on the CPU are 0 for
 * sizes that the calls refuse, and ht_last_error then says why. */
size_t ht_adapter_prepared_cpu(const ht_adapter_shape* shape, ht_dtype factors);

/* Fills the memory `prepared` with the weights in the layout that the forward reads. It serves calls of any batch, and
 * with a spectral filter only those on the same grid, as long as the weights stay where they are, unchanged.
 * factors is HT_FLOAT32, or HT_BFLOAT16 to round what project1 and project2 multiply to bfloat16, once, where the
 * instruction set in use has dot products of bfloat16; sums stay in float32. Other sets multiply in float32 then too.
 * Here and below, a call on the CPU uses at most `threads` threads; a small call uses one. */
ht_status ht_adapter_prepare_cpu(const ht_adapter_shape* shape, const ht_adapter_weights* weights, ht_dtype factors,
                                 void* prepared, int threads);

/* Bytes of workspace, aligned to 64, that the calls below need with so many threads; the forward without h and stats
 * needs more of it. */
size_t ht_adapter_forward_workspace_cpu(const ht_adapter_shape* shape, int keeps_state, int threads);
size_t ht_adapter_backward_workspace_cpu(const ht_adapter_shape* shape, int threads);

/* out = adapter(x), with weights and factors as ht_adapter_prepare_cpu was given them, and what it made. Also writes
 * what the backward needs: h (B, N, C), the bottleneck before the spatial part, and stats (B, N, 2), mean and 1/std of
 * each token; both are NULL where no backward follows. keep (B, N, C) holds dropout factors, or is NULL.
 * x and out have one dtype and may not overlap. */
ht_status ht_adapter_forward_cpu(const ht_adapter_shape* shape, const ht_adapter_weights* weights, ht_dtype factors,
                                 const void* prepared, ht_dtype dtype, ht_tokens x, const float* keep, ht_tokens out,
                                 float* h, float* stats, void* workspace, int threads);

/* Gradients of everything the forward read, with products in float32. grad_x.data may be NULL when it is not wanted. */
ht_status ht_adapter_backward_cpu(const ht_adapter_shape* shape, const ht_adapter_weights* weights, ht_dtype dtype,
                                  ht_tokens grad_out, ht_tokens x, const float* keep, const float* h,
                                  const float* stats, ht_tokens grad_x, const ht_adapter_weights* grads,
                                  void* workspace, int threads);

/* The stages of the two calls above whose time can be measured: F(NAME, name) for each. */
#define HT_ADAPTER_STAGES(F)                                                              \
  F(BEGIN, begin)   /* memory is cleared; the backward packs the weights */               \
  F(DOWN, down)     /* LayerNorm, gammas and project1; here and below, or its gradient */ \
  F(NOISE, noise)   /* the weights of an image's scales, and its kernel */                \
  F(FILTER, filter) /* the spectral filter */                                             \
  F(MIX, mix)       /* the convolution and the projector, and in the forward GELU */      \
  F(UP, up)         /* project2 and the residual, and in the backward GELU */             \
  F(END, end)       /* the backward adds up the gradients of the threads */               \
  F(WAIT, wait)     /* for other threads */

typedef enum {
#define HT_STAGE(NAME, name) HT_STAGE_##NAME,
  HT_ADAPTER_STAGES(HT_STAGE)
#undef HT_STAGE
      HT_STAGES /* how many there are */
} ht_stage;

/* The same calls with the same results, measured: the seconds that each thread spends in each stage are added to
 * seconds (threads, HT_STAGES). Threads that a small call does not use add nothing. NULL measures nothing. */
ht_status ht_adapter_forward_stages_cpu(const ht_adapter_shape* shape, const ht_adapter_weights* weights,
                                        ht_dtype factors, const void* prepared, ht_dtype dtype, ht_tokens x,
                                        const float* keep, ht_tokens out, float* h, float* stats, void* workspace,
                                        int threads, double* seconds);
ht_status ht_adapter_backward_stages_cpu(const ht_adapter_shape* shape, const ht_adapter_weights* weights,
                                         ht_dtype dtype, ht_tokens grad_out, ht_tokens x, const float* keep,
                                         const float* h, const float* stats, ht_tokens grad_x,
                                         const ht_adapter_weights* grads, void* workspace, int threads,
                                         double* seconds);

/* Folding: sizes of the published weights that are combined with each other. */
typedef struct {
  int64_t dim;        /* D */
  int64_t bottleneck; /* C */
  int64_t hidden;     /* Q; 0 without a noise estimator */
  int64_t gains;      /* of the filter: 0 for none, 1 for one that all channels share, or C */
  int masked;         /* a spectral filter stands before the convolutions, which then do not take the gain */
} ht_fold_shape;

/* The one list of these weights: F(name) for each, in the order of ht_kernels.folding.FoldParts. */
#define HT_FOLD_PARTS(F)                  \
  F(down_weight)   /* (C, D) */           \
  F(down_bias)     /* (C) */              \
  F(norm_weight)   /* (D) */              \
  F(norm_bias)     /* (D) */              \
  F(gamma)         /* (D) */              \
  F(gain)          /* (gains), or NULL */ \
  F(kernel3)       /* (C, 3, 3) */        \
  F(kernel5)       /* (C, 5, 5) */        \
  F(kernel7)       /* (C, 7, 7) */        \
  F(bias3)         /* (C) */              \
  F(bias5)         /* (C) */              \
  F(bias7)         /* (C) */              \
  F(hidden_weight) /* (Q, C), or NULL */  \
  F(projector)     /* (C, C) */

/* The folded weights that come of them, in the order of ht_kernels.folding.FoldResults; their shapes are those of
 * HT_ADAPTER_WEIGHTS. */
#define HT_FOLD_RESULTS(F) F(norm_gain) F(down_bias) F(scale_kernels) F(scale_bias) F(hidden_weight) F(mix_weight)

/* On the CPU, contiguous, or their gradients. */
typedef struct {
#define HT_FIELD(name) float* name;
  HT_FOLD_PARTS(HT_FIELD)
} ht_fold_parts;
typedef struct {
  HT_FOLD_RESULTS(HT_FIELD)
#undef HT_FIELD
} ht_fold_results;

ht_status ht_adapter_fold_cpu(const ht_fold_shape* shape, const ht_fold_parts* parts, const ht_fold_results* results);

/* The gradients of the parts from those of the results. down_weight is a folded weight too, as it is; its own gradient
 * from there, down_weight_grad (C, D), is added; it may be part_grads->down_weight. */
ht_status ht_adapter_fold_backward_cpu(const ht_fold_shape* shape, const ht_fold_parts* parts,
                                       const float* down_weight_grad, const ht_fold_results* result_grads,
                                       const ht_fold_parts* part_grads);

/* The spectral filter by itself, irfft2(mask * rfft2(x)) on images (B, C, H, W). */
typedef struct {
  int64_t batch;    /* B */
  int64_t channels; /* C */
  int64_t height;   /* H */
  int64_t width;    /* W */
  int64_t masks;    /* 1, or C */
} ht_filter_shape;

/* Bytes of workspace, aligned to 64, that the calls below need with so many threads. */
size_t ht_spectral_filter_workspace_cpu(const ht_filter_shape* shape, int backward, int threads);

/* x and out are contiguous; mask (masks, H, W / 2 + 1, 2) holds real and imaginary parts. */
ht_status ht_spectral_filter_cpu(const ht_filter_shape* shape, const float* x, const float* mask, float* out,
                                 void* workspace, int threads);

/* The gradient of a mask is that of its real and of its imaginary parts. */
ht_status ht_spectral_filter_backward_cpu(const ht_filter_shape* shape, const float* grad_out, const float* x,
                                          const float* mask, float* grad_x, float* grad_mask, void* workspace,
                                          int threads);

/* Masks (B, H, W) from logits on a grid (B, K, h, w). */
typedef struct {
  int64_t batch;       /* B */
  int64_t classes;     /* K, the number of logits, 1 to 256 */
  int64_t grid_height; /* h */
  int64_t grid_width;  /* w */
  int64_t height;      /* H */
  int64_t width;       /* W */
} ht_mask_shape;

/* Bytes of workspace, aligned to 64, that the call below needs with so many threads. */
size_t ht_grid_to_mask_workspace_cpu(const ht_mask_shape* shape, int threads);

/* mask = the class of each pixel: the largest of the K logits after bilinear upsampling to H x W, with clamped edges
 * and pixel centres as in torch's interpolate with align_corners=False; the first of equal logits. A single logit tells
 * class 1, where it is above 0, from class 0. Logits are finite: near one that is not, the class may be any of those
 * that the K logits tell apart. logits and mask are contiguous; a side has at most 2^24 cells or pixels. */
ht_status ht_grid_to_mask_cpu(const ht_mask_shape* shape, const float* logits, uint8_t* mask, void* workspace,
                              int threads);

/* A frame (H, W, channels) and the gray image (h, w) that is made of it. */
typedef struct {
  int64_t height;     /* H */
  int64_t width;      /* W */
  int64_t channels;   /* 1 for gray, 3 for RGB */
  int64_t out_height; /* h */
  int64_t out_width;  /* w */
} ht_frame_shape;

/* Bytes of workspace, aligned to 64, that the call below needs with so many threads. */
size_t ht_preprocess_workspace_cpu(const ht_frame_shape* shape, int threads);

/* pixels = the frame as a model takes it: gray by the luma of ITU-R 601, resized by the bicubic filter (a = -0.5) with
 * antialiasing, across before down, equal to Pillow's convert("L") and resize with BICUBIC. Pixels of a row are
 * contiguous; row_stride is the distance of rows in bytes, negative for a frame from the bottom up. pixels (h, w) is
 * contiguous. A side has at most 2^20 pixels. */
ht_status ht_preprocess_cpu(const ht_frame_shape* shape, const uint8_t* frame, int64_t row_stride, uint8_t* pixels,
                            void* workspace, int threads);

/* The checksum CRC-64/ECMA-182 of count bytes, as OpenIGTLink's messages have it. crc is 0, or the checksum of the bytes
 * before these. */
uint64_t ht_crc64_cpu(const uint8_t* bytes, int64_t count, uint64_t crc);

/* On the device, contiguous and aligned to 16 bytes, the matrices in the dtype of tokens. */
typedef struct {
#define HT_MATRIX const void*
#define HT_FLOATS const float*
#define HT_FIELD(name, kind, when) HT_##kind name;
  HT_ADAPTER_WEIGHTS(HT_FIELD)
#undef HT_FIELD
#undef HT_FLOATS
#undef HT_MATRIX
} ht_adapter_weights_cuda;

/* How many bytes of device memory, aligned to 256, ht_adapter_prepare_cuda fills; 0 for HT_FLOAT32. */
size_t ht_adapter_prepared_cuda(const ht_adapter_shape* shape, ht_dtype dtype);

/* Fills the device memory `prepared` with the weights in the layout that the forward reads: one kernel is added to the
 * stream. It serves calls of any batch and grid, as long as the weights stay where they are, unchanged. For HT_FLOAT32
 * there is nothing to do, and prepared may be NULL. */
ht_status ht_adapter_prepare_cuda(const ht_adapter_shape* shape, const ht_adapter_weights_cuda* weights, ht_dtype dtype,
                                  void* prepared, void* stream);

/* Bytes of device memory, aligned to 256, that the call below needs. */
size_t ht_adapter_forward_workspace_cuda(const ht_adapter_shape* shape, ht_dtype dtype);

/* out = adapter(x) on the current device, for inference, with weights and dtype as ht_adapter_prepare_cuda was given
 * them, and what it made. normed, where its data is not NULL, becomes the LayerNorm of out without gain and bias, with
 * norm_eps: what the next block of a transformer begins with, when these two are folded into the product behind.
 * Two to four kernels are added to the stream (a cudaStream_t): two for the adapter, one for a spectral filter, and one
 * for normed unless the last of the adapter writes it beside out. Nothing is allocated and nothing waits. D and C are
 * multiples of 8, C at most 128; tokens are aligned to 16 bytes, with strides that are multiples of 8, and may not
 * overlap. With a spectral filter H and W are at most 64. tf32 allows tensor cores to round float32 products to TF32.
 * HT_BFLOAT16 needs compute capability 8.0, and C above 64 in 16-bit types more shared memory than devices of 7.5
 * have. */
ht_status ht_adapter_forward_cuda(const ht_adapter_shape* shape, const ht_adapter_weights_cuda* weights, ht_dtype dtype,
                                  int tf32, const void* prepared, ht_tokens x, ht_tokens out, ht_tokens normed,
                                  float norm_eps, void* workspace, void* stream);

/* out = irfft2(mask * rfft2(x)) on the current device: one kernel is added to the stream. x and out are contiguous and
 * in dtype, mask (masks, H, W / 2 + 1, 2) is aligned to 8 bytes. H and W are at most 64. */
ht_status ht_spectral_filter_cuda(const ht_filter_shape* shape, ht_dtype dtype, const void* x, const float* mask,
                                  void* out, void* stream);

/* ht_grid_to_mask_cpu on the current device: one kernel is added to the stream. */
ht_status ht_grid_to_mask_cuda(const ht_mask_shape* shape, const float* logits, uint8_t* mask, void* stream);

/* The instruction set in use: "baseline", "avx2", "avx512" or "avx512_bf16". The environment variable HT_KERNELS_CPU,
 * read once, may name a lower one than the machine has, or "avx2_bf16": AVX2 with the dot products of avx512_bf16 made
 * of its own instructions, which is slower than either and serves tests. */
const char* ht_cpu_isa(void);

/* One sentence about the last call on this thread that did not return HT_OK. */
const char* ht_last_error(void);

#ifdef HT_KERNELS_EXPORTS
#pragma GCC visibility pop
#endif

#ifdef __cplusplus
}
#endif

#endif
