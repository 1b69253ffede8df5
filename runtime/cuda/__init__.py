"""Runs programs for CUDA devices with NumPy and cuda-bindings alone; importing it needs NumPy
only.
"""
