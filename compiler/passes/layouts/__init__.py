"""What ``choose_layout.py`` asks about one node: in which layouts it reads and writes.

A rule adds a node to the new graph, over inputs in the layouts that it wants, and reorders
where they are in others (``site``). The table of all rules is in ``choose_layout.py``; they stand in
``convolutions``, ``products``, ``tiles``, ``images`` (what keeps an image in blocks of channels) and
``elementwise``; ``image_readers`` tells them who reads an image. ``packed_layouts`` holds the layouts
of weights and matrices, ``right_operands`` which of them pay for a product, ``blocked_views`` the
views that move whole blocks.
"""
