"""Triton's kernels for a GPU, by the same names and signatures as the compiled loops for a CPU.

They compute in float32 on contiguous tensors. Triton's interpreter runs them on a CPU, for tests.
"""
