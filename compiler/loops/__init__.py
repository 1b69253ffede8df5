"""The loop IR: one kernel as loop nests over buffers (ir), its text, its interpreter, and how it
is built.
"""
