"""How far from float64 a result may be, as relative L2 error; docs and tests of the library have the same."""

FLOAT32 = 1e-5
TF32 = 1e-3
GRADIENTS = 1e-4
"""In float32."""
SLACK = 1.5
"""How many times the published module's own error in a 16-bit dtype ours may be."""
