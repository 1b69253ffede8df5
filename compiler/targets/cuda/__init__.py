"""The CUDA target: fused kernels -> Numba-CUDA source -> PTX -> cubins -> a program file."""
