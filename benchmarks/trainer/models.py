"""Models of real shapes with random weights, and tokenizers that know the words of `words`, saved as authors do."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForSeq2SeqLM, PreTrainedTokenizerFast
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

Shape = Mapping[str, Any]
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "</s>", "<|user|>", "<|assistant|>", "<|end|>")
PAD, END = 0, 5
TEMPLATE = (
    "{% for message in messages %}<|{{ message.role }}|> {{ message.content }} <|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
LETTERS = ("<pad>", "<s>", "</s>", "<unk>", "|", *"abcdefghij")


def save(kind: str, folder: Path, words: Sequence[str], shape: Shape, dropout: float) -> None:
    """Save a model of one of `SAVERS`; its random weights are always the same."""
    import torch

    torch.manual_seed(0)
    SAVERS[kind](folder, words, shape, dropout)


def _tokenizer(words: Sequence[str], around: str, pair: str | None, **more: Any) -> PreTrainedTokenizerFast:
    """A word is a token; `around` is what a text stands in."""
    vocabulary = {token: number for number, token in enumerate((*SPECIAL, *words))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=around, pair=pair, special_tokens=[(token, vocabulary[token]) for token in ("[CLS]", "[SEP]", "</s>")]
    )
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", padding_side="right", **more
    )


def _bert(folder: Path, words: Sequence[str], shape: Shape, dropout: float) -> None:
    names = {"cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]"}
    inputs = ["input_ids", "token_type_ids", "attention_mask"]
    tokenizer = _tokenizer(
        words, "[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1", model_input_names=inputs, model_max_length=512, **names
    )
    tokenizer.save_pretrained(folder)
    drops = {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
    config = AutoConfig.for_model("bert", vocab_size=len(tokenizer), **drops, **shape)
    AutoModel.from_config(config).save_pretrained(folder)  # type: ignore[no-untyped-call]


def _llama(folder: Path, words: Sequence[str], shape: Shape, dropout: float) -> None:
    inputs = ["input_ids", "attention_mask"]
    tokenizer = _tokenizer(words, "$A", None, eos_token="</s>", model_input_names=inputs, model_max_length=2048)
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    config = AutoConfig.for_model(
        "llama",
        vocab_size=shape.get("vocab_size", len(tokenizer)),
        max_position_embeddings=2048,
        attention_dropout=dropout,
        pad_token_id=PAD,
        bos_token_id=None,
        eos_token_id=END,
        **{name: value for name, value in shape.items() if name != "vocab_size"},
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)  # type: ignore[no-untyped-call]


def _t5(folder: Path, words: Sequence[str], shape: Shape, dropout: float) -> None:
    inputs = ["input_ids", "attention_mask"]
    tokenizer = _tokenizer(words, "$A </s>", None, eos_token="</s>", model_input_names=inputs, model_max_length=512)
    tokenizer.save_pretrained(folder)
    ids = {"pad_token_id": PAD, "eos_token_id": END, "decoder_start_token_id": PAD}
    config = AutoConfig.for_model("t5", vocab_size=len(tokenizer), dropout_rate=dropout, **ids, **shape)
    AutoModelForSeq2SeqLM.from_config(config).save_pretrained(folder)  # type: ignore[no-untyped-call]


def _vit(folder: Path, words: Sequence[str], shape: Shape, dropout: float) -> None:  # noqa: ARG001
    side = {"height": shape["image_size"], "width": shape["image_size"]}
    ViTImageProcessorPil(size=side).save_pretrained(folder)
    drops = {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
    AutoModel.from_config(AutoConfig.for_model("vit", **drops, **shape)).save_pretrained(folder)  # type: ignore[no-untyped-call]


def _wav2vec2(folder: Path, words: Sequence[str], shape: Shape, dropout: float) -> None:  # noqa: ARG001
    """With norms over layers, which let clips stand padded beside each other."""
    from transformers import Wav2Vec2CTCTokenizer, Wav2Vec2FeatureExtractor, Wav2Vec2Processor

    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = folder / "vocab.json"
    vocabulary.write_text(json.dumps({letter: number for number, letter in enumerate(LETTERS)}), encoding="utf-8")
    tokenizer = Wav2Vec2CTCTokenizer(str(vocabulary))  # type: ignore[no-untyped-call]
    Wav2Vec2Processor(Wav2Vec2FeatureExtractor(return_attention_mask=True), tokenizer).save_pretrained(folder)  # type: ignore[no-untyped-call]
    drops = ("hidden_dropout", "attention_dropout", "activation_dropout", "feat_proj_dropout", "final_dropout")
    config = AutoConfig.for_model(
        "wav2vec2",
        feat_extract_norm="layer",
        do_stable_layer_norm=True,
        conv_bias=True,
        layerdrop=0.0,
        apply_spec_augment=dropout > 0,
        ctc_loss_reduction="mean",
        ctc_zero_infinity=True,
        **dict.fromkeys(drops, dropout),
        **shape,
    )
    AutoModel.from_config(config).save_pretrained(folder)  # type: ignore[no-untyped-call]


Saver = Callable[[Path, Sequence[str], Shape, float], None]
SAVERS: Mapping[str, Saver] = {"bert": _bert, "llama": _llama, "t5": _t5, "vit": _vit, "wav2vec2": _wav2vec2}
