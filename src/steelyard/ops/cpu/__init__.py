"""The CPU's engines: tiles that stay in the cache, and PyTorch's own kernels for few logits."""
