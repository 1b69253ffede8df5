"""The loop IR: one kernel as loop nests over buffers, and how a fused graph becomes one.

The IR: ``ir`` (on one page), ``text`` and ``parse``, ``verify`` (with ``scope``, ``dtypes`` and
``lanes``), ``interpret`` (with ``bindings``).

``build`` chooses a way. What all share: ``elements`` (formulas, composed), ``numbering`` (work items
over axes), ``unrolling``, ``dots`` (sums of bytes). The ways:

- register tiles: ``axes`` -> ``space`` -> ``tiling`` and ``items`` -> ``plan`` -> ``emit``, with
  ``strides``, ``tile_conditions``, and ``ahead`` and ``panels`` for prefetches;
- pointwise kernels in the order of memory: ``linear``; transposed in registers: ``transposition``,
  ``transposed_tiles``;
- rows that are reduced several times: ``row_form``, ``row_passes``, ``row_loops``, ``row_vectors``,
  and ``row_along_lanes`` or ``row_per_lane``;
- ops with loops of their own: ``tiles`` with ``winograd`` and ``fft``, ``bands``, ``attention``,
  ``scans`` and ``scatter`` (over ``lines``), ``runs``, ``merging``, ``selecting``, ``digits``.
"""
