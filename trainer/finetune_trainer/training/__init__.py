"""What a rank does with model and rows: the loop, the step, what is evaluated and what is saved."""

import sys

# transformers loads torchao wherever it is installed, which takes every process seconds and a hundred megabytes. Only
# fp8 needs it, and lets it in again: see precision.
sys.modules.setdefault("torchao", None)  # type: ignore[arg-type]
