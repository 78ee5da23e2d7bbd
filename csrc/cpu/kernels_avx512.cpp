// AVX-512 (F, BW, DQ, VL): 32 vector registers of 16 floats.
#define HT_ISA avx512
#define HT_LANES 16
#define HT_ROWS 12
#include "kernel_table.h"

HT_TABLE(avx512)
