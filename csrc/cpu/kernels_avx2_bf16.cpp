// AVX2 and FMA with dot products of bfloat16 made of their instructions: the arithmetic of AVX512-BF16 where there is
// none, for tests.
#define HT_ISA avx2_bf16
#define HT_LANES 8
#define HT_ROWS 6
#define HT_PAIRS
#include "kernel_table.h"

HT_TABLE(avx2_bf16)
