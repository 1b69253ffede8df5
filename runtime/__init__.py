"""Runs compiled programs. Needs NumPy only, never the compiler: it knows the manifest and the C
interface.
"""
