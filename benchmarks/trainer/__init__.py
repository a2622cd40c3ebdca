"""Our trainer beside transformers.Trainer and TRL: `python -m benchmarks.trainer`.

A `Workload` is a model, rows and a manifest; a `Side` is a program that trains it. Each measurement is a process of
its own. `ours` runs the trainer as a pod does and only looks at its clock; `peer` runs in a process that knows nothing
of our trainer and gets the same start weights, the same encoded rows in the same order, and the same optimizer.
`compare` takes turns between the sides, `figures` makes ratios of the seconds, `table` prints them.
"""
