"""The CUDA engine: Triton's kernels, and what launches them."""
