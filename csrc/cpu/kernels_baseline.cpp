// What every machine of this kind has: SSE2 on x86-64 (16 vector registers), NEON on Arm (32).
#define HT_ISA baseline
#define HT_LANES 4
#if defined(__aarch64__)
#define HT_ROWS 12
#else
#define HT_ROWS 6
#endif
#include "kernel_table.h"

HT_TABLE(baseline)
