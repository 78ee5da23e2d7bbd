// AVX-512 (F, BW, DQ, VL, BF16): 32 vector registers of 16 floats, or of 32 bfloat16 whose dot products are instructions.
#if defined(__AVX512BF16__)
#define HT_ISA avx512_bf16
#define HT_LANES 16
#define HT_ROWS 12
#define HT_PAIRS
#include "kernel_table.h"

HT_TABLE(avx512_bf16)
#else
#include "kernels.h"

const ht::Kernels ht::kernels_avx512_bf16{};
#endif
