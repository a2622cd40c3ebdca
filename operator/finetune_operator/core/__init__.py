"""Thought: pure functions over frozen values.

Time, names and settings are arguments. No framework, client, clock, environment or thread may enter;
the build fails if one does.
"""
