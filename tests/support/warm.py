"""What the warm process imports once, so that no run of a test spends seconds on it: the architectures of the zoo."""

import subprocess
import sys
from importlib import import_module

from finetune_trainer.pages import charts, page  # noqa: F401

ARCHITECTURES = (
    "bart", "bert", "clip", "distilbert", "efficientnet", "gpt2", "llama", "llava", "qwen3", "resnet", "roberta", "t5",
    "vit", "wav2vec2", "whisper",
)  # fmt: skip

for name in ARCHITECTURES:
    import_module(f"transformers.models.{name}.modeling_{name}")

BUNDLE = "from finetune_trainer.pages.page import vega; print(vega(), end='')"
"""Done elsewhere: what makes the bundle leaves threads behind, and a process with threads is not to be forked."""
_script = subprocess.run([sys.executable, "-c", BUNDLE], stdout=subprocess.PIPE, text=True, check=True).stdout
page.vega = lambda: _script
