"""The words: what operator, trainer and command line say to each other and to users.

Pydantic models of every kind, the documents that travel between the programs, and the names they agree on.
Nothing in here does input or output, and no framework may enter.
"""
