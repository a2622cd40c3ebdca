"""Small tasks with real structure: rows follow from rules that a model can find, but not from any one word or pixel.

Every function draws from its own seed, so the same call gives the same rows. Rows are dictionaries whose keys are the
task's columns; what is heard or seen is written to a folder, and the row holds the file's path inside of it.
"""
