"""Rows: where they lie (`uri`), how they are read (`sources`), split (`split`), and in which order they come (`sampler`).

Nothing in here imports torch: the supervisor checks the rows before it starts the ranks.
"""
