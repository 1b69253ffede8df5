"""The parts of targets/cpu/llvm.py: how values, indices, memory and expressions of the loop IR
become LLVM code.
"""
