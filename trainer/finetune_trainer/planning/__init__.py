"""What a run will need before it starts: memory of each process, disk, steps; and what to change where it is too much.

`optimizers`, `footprint` and `remedies` are pure. `shapes` has the models, without a weight; `simulation` runs a step
of them without computing anything, and counts what lies in memory. `__main__` is what `finetune plan` starts.
"""
