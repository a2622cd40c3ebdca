"""CLIP, which matches pictures with texts, and LLaVA, which writes about a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPProcessor,
    CLIPTokenizer,
    CLIPVisionConfig,
    LlamaConfig,
    LlamaTokenizer,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from support.zoo import tokens

SIDE, PATCH = 32, 8
POSITIONS = 128
SIZES = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
CHAT = (
    "{% for message in messages %}{{ message.role.upper() }}: {% for part in message.content %}"
    "{{ '<image>\n' if part.type == 'image' else part.text }}{% endfor %} {% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)


def save(folder: Path, kind: str, texts: Sequence[str], dropout: float) -> None:
    {"clip": _clip, "llava": _llava}[kind](folder, texts, dropout)


def _images() -> CLIPImageProcessorPil:
    return CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE})


def _vision(dropout: float) -> dict[str, float]:
    return {**SIZES, "image_size": SIDE, "patch_size": PATCH, "attention_dropout": dropout, "projection_dim": 32}


def _clip(folder: Path, texts: Sequence[str], dropout: float) -> None:
    special = ["<|startoftext|>", "<|endoftext|>"]
    pairs = tokens.byte_pairs(texts, special, end_of_word_suffix="</w>")
    tokenizer = CLIPTokenizer(**pairs, model_max_length=32)
    CLIPProcessor(_images(), tokenizer).save_pretrained(folder)
    text = {**SIZES, "vocab_size": len(tokenizer), "max_position_embeddings": 32, "attention_dropout": dropout}
    text |= {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    text |= {"pad_token_id": tokenizer.pad_token_id, "projection_dim": 32}
    CLIPModel(CLIPConfig(text_config=text, vision_config=_vision(dropout), projection_dim=32)).save_pretrained(folder)


def _llava(folder: Path, texts: Sequence[str], dropout: float) -> None:
    tokenizer = LlamaTokenizer(**tokens.word_pairs(texts), model_max_length=POSITIONS, pad_token="<pad>")
    tokenizer.add_special_tokens({"extra_special_tokens": ["<image>"]})
    processor = LlavaProcessor(_images(), tokenizer, PATCH, "default", CHAT, num_additional_image_tokens=1)
    processor.save_pretrained(folder)
    text = LlamaConfig(
        **SIZES,
        vocab_size=len(tokenizer),
        max_position_embeddings=POSITIONS,
        initializer_range=0.08,
        attention_dropout=dropout,
        pad_token_id=tokenizer.pad_token_id,
    )
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**_vision(dropout)),
        text_config=text,
        image_token_index=processor.image_token_id,
        image_seq_length=(SIDE // PATCH) ** 2,
    )
    LlavaForConditionalGeneration(config).save_pretrained(folder)
