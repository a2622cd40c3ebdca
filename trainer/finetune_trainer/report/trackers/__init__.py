"""Trackers: TensorBoard, MLflow and Weights & Biases, each told what metrics.jsonl has.

An adapter is a thin layer over the tracker's own library, which it imports when it is opened. It may block and raise as
that library does: `follower.Tracking` calls it from a thread of its own, so that a tracker never stalls or ends a run.
"""
