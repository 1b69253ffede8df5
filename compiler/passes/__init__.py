"""Passes: functions Graph -> Graph, one a file, the file named like the function. ``GRAPH_PASSES``
(compiler/pipeline.py) and ``PIPELINE`` (compiler/driver.py) hold their order, and ``netloom passes``
prints it with the reasons.

Two passes decide with more than a file holds: ``layouts/`` serves ``choose_layout``, and ``memory/``
serves ``plan_memory``, which comes last; ``placement`` is what entries of a program share there.
``widen_means`` serves ``decompose`` and ``differentiate``.
``differentiate`` and ``bind_dims`` stand in no pipeline: who builds a graph calls them. The CUDA
target's pipelines have ``multiply_floats``, ``multiply_sums`` and ``unroll_turns`` besides.
"""
