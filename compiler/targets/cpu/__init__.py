"""The CPU target: kernels and a program's host code -> a shared object, or a program in process.

Kernels: ``llvm`` and ``lowering/`` turn loops into LLVM code, ``vector_math/`` holds the formulas
of exp, tanh and the like, ``object_code`` compiles the text. ``kernel_objects`` does so for all
kernels of a program, with the cache and the processes of ``worker_pool``.

Host code (checks, contexts, threads, running an entry): ``host`` is the layer in which it is
written; ``host_api`` ties the other ``host_*`` files together, one for each part. Programs of one
``host_shape`` share the functions; ``host_data`` and ``host_tables`` write the constants that these
read, and where values lie while an entry runs.

Files: ``segments``, ``weights_object`` and ``weights_segment`` place the weights, ``link`` and
``relocatable`` join objects, ``header`` writes the C header, ``shared_object`` does all of it;
``jit`` loads the same objects in this process.

Machines: ``architecture``, ``machine`` (CPU levels), ``features``, ``variant``. ``layer_timer``,
``timing_worker`` and ``launches`` time code for profiles and ``--tune``.
"""
