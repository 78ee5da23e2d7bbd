"""The allowed errors against float64, as relative L2 errors. The library's docs and tests use the same limits."""

FLOAT32 = 1e-5
TF32 = 1e-3
GRADIENTS = 1e-4
"""The limit for gradients in float32."""
SLACK = 1.5
"""In a 16-bit dtype, our error may be this many times the error of the published module in the same dtype."""
