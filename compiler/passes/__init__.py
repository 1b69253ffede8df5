"""Passes: functions Graph -> Graph, one a file, the file named like the function. ``GRAPH_PASSES``
(compiler/pipeline.py) and ``PIPELINE`` (compiler/driver.py) hold their order, and ``netloom passes``
prints it with the reasons.

Files that are no pass of a pipeline serve passes: ``aliases``, ``copies`` and ``placement`` serve
``plan_memory``, ``slice_starts`` too; ``blocked_views``, ``packed_layouts`` and ``right_operands``
serve ``choose_layout``. ``differentiate`` and ``bind_dims`` stand in no pipeline: who builds a graph
calls them. The CUDA target's pipelines have ``multiply_floats``, ``multiply_sums`` and
``unroll_turns`` besides.
"""
