"""The program that fine-tunes: PID 1 of the training image, and what `finetune run` starts.

`supervisor` is the outside (standard library and the words): it checks, starts one process a device, ends them, and
says how it went. `worker` is the inside: it needs torch, and everything it imports may.
"""
