"""Runs compiled programs. Needs NumPy only, never the compiler: it knows the manifest and the C
interface.

``program`` reads the manifest, ``cpu`` binds the C interface, ``buffer`` turns a caller's values
into arrays, ``session`` runs entries. ``training`` (with ``training_data`` and
``training_progress``) runs training steps on a ``state``, ``checkpoint`` keeps it. ``cuda/`` is the
same for devices.
"""
