"""Downloads that stay: a folder, usually on a volume, in which models and data are kept for all jobs that share it.

`downloads` is the door: what a run uses of the folder, pinned in a file of its own. `objects` keeps what does not come
from the hub, by its content; the hub's own library keeps the rest. `lock` lets one process work and the others wait.
"""
