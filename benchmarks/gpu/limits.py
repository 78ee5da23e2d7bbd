"""The allowed errors against float64, as relative L2 errors, and the instructions that kernels may have. The
library's docs and tests use the same limits."""

FLOAT32 = 1e-5
TF32 = 1e-3
GRADIENTS = 1e-4
"""The limit for gradients in float32."""
SLACK = 1.5
"""In a 16-bit dtype, our error may be this many times the error of the published module in the same dtype."""
FP8 = 0.1
"""The limit for logits of a model whose blocks multiply in FP8, where one rounding is off by up to 2**-4."""
INSTRUCTIONS = {"down_project": 15_000, "mix_and_up_project": 24_000}
"""The most instructions of all warps for 64 slots of a tile, as benchmarks.gpu.model_time counts them for 64 images
with D 768 and C 64, in bfloat16 on an H100."""
