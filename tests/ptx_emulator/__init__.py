"""A test tool: runs the PTX subset that netloom's kernels compile to, over NumPy, and watches
memory and barriers.
"""
