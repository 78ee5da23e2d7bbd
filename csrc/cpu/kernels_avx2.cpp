// AVX2 and FMA: 16 vector registers of 8 floats.
#define HT_ISA avx2
#define HT_LANES 8
#define HT_ROWS 6
#include "kernel_table.h"

HT_TABLE(avx2)
