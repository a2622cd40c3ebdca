"""Rows: where they lie (`uri`), how they are read (`sources`), how they are split, and in which order they come.

Nothing in here imports torch: the supervisor checks the rows before it starts the ranks.
"""
