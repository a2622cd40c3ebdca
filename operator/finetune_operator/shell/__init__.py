"""Hands: the only code that imports kopf, a client, the clock or the environment."""
