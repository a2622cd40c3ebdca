"""GPT-2, Llama and Qwen3: models that continue a text, with their traps.

GPT-2 and Llama have no pad token, GPT-2 no chat template; Llama's template does not mark what the assistant says.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    GPT2Tokenizer,
    LlamaTokenizer,
    PreTrainedTokenizerBase,
    Qwen2Tokenizer,
)

from support.zoo import tokens

POSITIONS = 128
SPREAD = 0.08
CHAT_ML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
INST = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message.role == 'assistant' %} {{ message.content }}{{ eos_token }}"
    "{% elif message.role == 'user' %}[INST] {{ message.content }} [/INST]"
    "{% else %}<<{{ message.content }}>>{% endif %}{% endfor %}"
)


def save(folder: Path, kind: str, texts: Sequence[str], dropout: float) -> None:
    tokenizer = {"gpt2": _gpt2, "llama": _llama, "qwen3": _qwen3}[kind](texts)
    tokenizer.save_pretrained(folder)
    sizes = _gpt2_sizes(dropout) if kind == "gpt2" else _llama_sizes(kind, dropout)
    ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    config = AutoConfig.for_model(
        kind, vocab_size=len(tokenizer), initializer_range=SPREAD, pad_token_id=tokenizer.pad_token_id, **ids, **sizes
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)


def _gpt2(texts: Sequence[str]) -> PreTrainedTokenizerBase:
    return GPT2Tokenizer(**tokens.byte_pairs(texts, ["<|endoftext|>"]), model_max_length=POSITIONS)


def _llama(texts: Sequence[str]) -> PreTrainedTokenizerBase:
    tokenizer = LlamaTokenizer(**tokens.word_pairs(texts), model_max_length=POSITIONS)
    tokenizer.chat_template = INST
    return tokenizer


def _qwen3(texts: Sequence[str]) -> PreTrainedTokenizerBase:
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    tokenizer = Qwen2Tokenizer(
        **tokens.byte_pairs(texts, special),
        eos_token="<|im_end|>",
        extra_special_tokens=["<|im_start|>"],
        model_max_length=POSITIONS,
    )
    tokenizer.chat_template = CHAT_ML
    return tokenizer


def _gpt2_sizes(dropout: float) -> dict[str, float]:
    drops = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop", "summary_first_dropout"), dropout)
    return {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": POSITIONS} | drops


def _llama_sizes(kind: str, dropout: float) -> dict[str, float]:
    """With fewer heads for keys than for queries, as the newer of both families have it."""
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "attention_dropout": dropout}
    sizes |= {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": POSITIONS}
    return sizes | ({"head_dim": 16, "tie_word_embeddings": True} if kind == "qwen3" else {})
