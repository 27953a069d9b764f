"""Forward passes of few, large kernels on a GPU, written in Triton, which comes with torch for CUDA."""
