"""What the warm process imports once, so that no run of a test spends seconds on it: the architectures of the zoo."""

from importlib import import_module

ARCHITECTURES = (
    "bart", "bert", "clip", "distilbert", "efficientnet", "gpt2", "llama", "llava", "qwen3", "resnet", "roberta", "t5",
    "vit", "wav2vec2", "whisper",
)  # fmt: skip

for name in ARCHITECTURES:
    import_module(f"transformers.models.{name}.modeling_{name}")
