"""Training rows as one epoch sees them: pure functions of a value, the manifest's settings, and a seed.

The seed is that of the example's draw, (seed, epoch, row): whoever computes a row, and whenever, changes it alike.
"""
