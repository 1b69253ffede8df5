"""The CUDA target: fused kernels -> Numba-CUDA source -> PTX -> cubins -> a program file.

``driver`` goes all the way (docs/gpu.md tells it). ``schedule`` and the ``*_form`` files choose one of
``forms`` for a kernel, ``source`` writes its text with what ``products``, ``transforms``, ``winograd``,
``attention`` and the like know of their form, in the instructions of ``intrinsics/``. ``compile`` calls
Numba, ``program_file`` writes what came out. ``estimates`` prices kernels for ``strategies``.
"""
