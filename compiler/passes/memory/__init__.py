"""What ``plan_memory.py`` decides with, in the order in which it asks:

- ``goals``: where results go, and whether the kernels that make them may write them there at once;
- ``aliases``: which values lie in the memory of others, and so need none of their own;
- ``lifetimes``: until when each value is read, and which kernels come before another in any case;
- ``arena``: slots, which values that are never alive together use one after another;
- ``launches``: the calls of kernels, and the dims and turns between them.

``copies`` holds kernels that only copy, ``slice_starts`` makes slices that begin elsewhere the same
kernel.
"""
