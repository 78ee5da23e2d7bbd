"""The Triton kernels, one per file, and the device functions that they share."""
