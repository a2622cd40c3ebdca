"""Loading what a model's folder holds, with errors that name the field and say what would work."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune_api.method import MethodType
from finetune_api.run import RunConfig
from finetune_trainer.errors import ConfigError
from finetune_trainer.methods.qlora import four_bits
from finetune_trainer.model_folder import ModelFolder

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

SHAPES_ONLY: ContextVar[bool] = ContextVar("shapes_only", default=False)


@contextmanager
def shapes_only() -> Iterator[None]:
    """In this block a model has the shapes of its configuration and no values, so that its files need no weights."""
    import torch

    token = SHAPES_ONLY.set(True)
    try:
        with torch.device("meta"):
            yield
    finally:
        SHAPES_ONLY.reset(token)


def load_tokenizer(source: ModelFolder) -> PreTrainedTokenizerBase:
    """The tokenizer; one that has no token for padding uses its end-of-text token, which the model masks."""
    from transformers import AutoTokenizer

    tokenizer: PreTrainedTokenizerBase = _load("tokenizer", "tokenizer.json", AutoTokenizer.from_pretrained, source)
    _ensure_padding(tokenizer)
    return tokenizer


def save_tokenizer(tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """The same files whatever was encoded last, or came from a cache."""
    forget_lengths(tokenizer)
    tokenizer.save_pretrained(str(folder))


def forget_lengths(tokenizer: PreTrainedTokenizerBase) -> None:
    """Put off the truncation and padding of the last call, which a tokenizer keeps, and saves in tokenizer.json."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        backend.no_truncation()
        backend.no_padding()


def _ensure_padding(tokenizer: PreTrainedTokenizerBase) -> None:
    if tokenizer.pad_token is None:
        if tokenizer.eos_token is None:
            message = "spec.model.uri: its tokenizer has neither a pad token nor an end-of-text token"
            raise ConfigError("NoPadToken", message, "set pad_token in its tokenizer_config.json")
        tokenizer.pad_token = tokenizer.eos_token


def load_processor(source: ModelFolder) -> Any:
    """What prepares images and texts together, with its images on Pillow and a tokenizer that pads."""
    from transformers import AutoProcessor

    def load(path: str) -> Any:
        return AutoProcessor.from_pretrained(path, backend="pil")  # type: ignore[no-untyped-call]

    processor = _load("processor", "processor_config.json", load, source)
    _ensure_padding(processor.tokenizer)
    return processor


def load_image_processor(source: ModelFolder) -> Any:
    """The image processor on Pillow, which is the same on every machine."""
    from transformers import AutoImageProcessor

    def load(path: str) -> Any:
        return AutoImageProcessor.from_pretrained(path, backend="pil")  # type: ignore[no-untyped-call]

    return _load("image processor", "preprocessor_config.json", load, source)


def load_feature_extractor(source: ModelFolder) -> Any:
    from transformers import AutoFeatureExtractor

    return _load("feature extractor", "preprocessor_config.json", AutoFeatureExtractor.from_pretrained, source)


def _load(what: str, file: str, loader: Callable[[str], Any], source: ModelFolder) -> Any:
    try:
        return loader(str(source.path))
    except (OSError, ValueError, KeyError) as error:
        message = f"spec.model.uri: its {what} does not load: {error}"
        raise ConfigError(
            f"{what.title().replace(' ', '')}Unreadable", message, f"give a folder with {file}"
        ) from error


def load_config(source: ModelFolder, config: RunConfig, **changes: Any) -> PreTrainedConfig:
    """The model's configuration with `changes`, and with the manifest's dropout.

    Raises ConfigError for a dropout that the architecture has no field for.
    """
    found, replaced = load_part(source, config, **changes)
    if config.training.dropout is not None and not replaced:
        message = f"spec.training.dropout: a {source.model_type} model has no dropout"
        raise ConfigError("NotSupported", message, "leave it out")
    return found


def load_part(source: ModelFolder, config: RunConfig, **changes: Any) -> tuple[PreTrainedConfig, int]:
    """The configuration of a part of a model, where others have dropout, too; and how many fields it has for that."""
    from transformers import AutoConfig

    trust = config.model.trust_remote_code
    found: PreTrainedConfig = AutoConfig.from_pretrained(str(source.path), trust_remote_code=trust, **changes)
    dropout = config.training.dropout
    return found, 0 if dropout is None else set_dropout(found, dropout)


def load_weights(
    auto_class: Any, source: ModelFolder, config: RunConfig, model_config: PreTrainedConfig
) -> tuple[PreTrainedModel, list[str]]:
    """The model in 32 bits, with qlora in four; and the names of the parameters that its file does not have, or has in
    another shape.
    """
    import torch
    from safetensors import SafetensorError

    if SHAPES_ONLY.get():
        trust = config.model.trust_remote_code
        return auto_class.from_config(model_config, dtype=torch.float32, trust_remote_code=trust), []
    how: dict[str, Any] = {"dtype": torch.float32}
    if config.method.type is MethodType.QLORA and getattr(model_config, "quantization_config", None) is None:
        how = four_bits()
    try:
        model, loading = auto_class.from_pretrained(
            str(source.path),
            config=model_config,
            **how,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            trust_remote_code=config.model.trust_remote_code,
        )
    except (OSError, SafetensorError) as error:
        message = f"spec.model.uri: its weights do not load: {error}"
        raise ConfigError("ModelUnreadable", message, "give a whole model.safetensors") from error
    new = {*loading["missing_keys"], *(str(key[0]) for key in loading["mismatched_keys"])}
    return model, sorted(new)


def set_dropout(config: PreTrainedConfig, dropout: float) -> int:
    """Replace every dropout probability that the architecture has a field for, in the parts of a model as well.

    Dropping whole layers (`layerdrop`, `drop_path_rate`) is another thing and stays.
    """
    names = [name for name, value in vars(config).items() if _is_dropout(name, value)]
    for name in names:
        setattr(config, name, dropout)
    parts = [part for name in config.sub_configs if (part := getattr(config, name, None)) is not None]
    return len(names) + sum(set_dropout(part, dropout) for part in parts)


def _is_dropout(name: str, value: object) -> bool:
    named = "dropout" in name or name.endswith("pdrop")
    return named and not isinstance(value, bool) and (value is None or isinstance(value, int | float))
