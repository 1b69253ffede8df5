"""The CPU target: kernels through LLVM, the program's host code, shared objects and in-process
programs.
"""
