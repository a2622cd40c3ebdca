"""The matrix's cases of tasks that write text, and what the saved models say when transformers alone asks them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from finetune_trainer.data.media import open_image
from finetune_trainer.data.rows import Row
from support.corpora import pictures, text
from support.matrix import Bar, Case

Said = Mapping[str, Any]


def rows_of(make: Callable[[int], list[dict[str, Any]]], count: int) -> Callable[[Path], list[dict[str, Any]]]:
    return lambda _: make(count)


def written_after_reading(model: Path, rows: Sequence[Row]) -> list[Any]:
    """What a model writes of each source."""
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    writer, tokenizer = AutoModelForSeq2SeqLM.from_pretrained(model), AutoTokenizer.from_pretrained(model)
    inputs = (tokenizer(row.values["source"], return_tensors="pt") for row in rows)
    return [tokenizer.decode(writer.generate(**read)[0], skip_special_tokens=True) for read in inputs]


def text_said(line: Said) -> Any:
    return line["generated_text"]


def seq2seq(task: str, model: str, corpus: Any, rate: float, epochs: int, bar: Bar) -> Case:
    return Case(
        id=f"{task} {model}",
        task=task,
        model=model,
        corpus=corpus,
        bar=bar,
        ecosystem=written_after_reading,
        said=text_said,
        training={"learningRate": rate, "numTrainEpochs": epochs, "trainBatchSize": 16},
    )


Spans = Iterable[tuple[int, int]]
"""Where in a text the parts begin and end that a model has to say."""


def surprise(model: Any, tokenizer: Any, whole: str, spans: Spans) -> list[float]:
    """Negative log-likelihood of the parts of a text, summed, and how many tokens they are."""
    import torch

    encoded = tokenizer(whole, return_tensors="pt", return_offsets_mapping=True)
    offsets = encoded.pop("offset_mapping")[0].tolist()
    with torch.no_grad():
        chances = model(**encoded).logits[0].log_softmax(-1)
    ids, inside = encoded["input_ids"][0], list(spans)
    places = [n for n, (start, _) in enumerate(offsets) if n and any(first <= start < last for first, last in inside)]
    return [-sum(float(chances[place - 1, ids[place]]) for place in places), float(len(places))]


def surprises(model: Path, rows: Sequence[Row], parts: Callable[[Any, Row], tuple[str, Spans]]) -> list[Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    writer, tokenizer = AutoModelForCausalLM.from_pretrained(model), AutoTokenizer.from_pretrained(model)
    return [surprise(writer, tokenizer, *parts(tokenizer, row)) for row in rows]


def whole_text(tokenizer: Any, row: Row) -> tuple[str, Spans]:
    whole = row.values["text"] + tokenizer.eos_token
    return whole, [(0, len(whole))]


def completion(tokenizer: Any, row: Row) -> tuple[str, Spans]:
    whole = row.values["prompt"] + row.values["completion"] + tokenizer.eos_token
    return whole, [(len(row.values["prompt"]), len(whole))]


def assistant(tokenizer: Any, row: Row) -> tuple[str, Spans]:
    """What stands in Llama's template between the end of an instruction and the end of the text."""
    whole = tokenizer.apply_chat_template(list(row.values["messages"]), tokenize=False)
    return whole, [match.span(1) for match in re.finditer(r"\[/INST\](.*?</s>)", whole)]


def surprise_said(line: Said) -> Any:
    return [line["nll"], float(line["tokens"])]


def every_text(value: Any) -> Iterator[str]:
    """The texts in a row; of messages what they say."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for name, item in value.items():
            yield from every_text(item) if name != "role" else ()
    else:
        for item in value:
            yield from every_text(item)


def text_generation(model: str, corpus: Any, parts: Any, bar: Bar, epochs: int) -> Case:
    return Case(
        id=f"text-generation {model}",
        task="text-generation",
        model=model,
        corpus=corpus,
        bar=bar,
        ecosystem=partial(surprises, parts=parts),
        said=surprise_said,
        texts=lambda row: list(every_text(row)),
        training={"learningRate": 3e-3, "numTrainEpochs": epochs, "trainBatchSize": 16},
    )


def both_answers(model: Path, rows: Sequence[Row]) -> list[Any]:
    """Log-likelihoods of the chosen and of the rejected answer."""
    answers = [
        [Row({**row.values, "completion": row.values[name]}, row.source, row.number) for row in rows]
        for name in ("chosen", "rejected")
    ]
    found = [surprises(model, some, completion) for some in answers]
    return [[-chosen[0], -rejected[0]] for chosen, rejected in zip(*found, strict=True)]


def preference(model: str) -> Case:
    return Case(
        id=f"preference-optimization {model}",
        task="preference-optimization",
        model=model,
        corpus=rows_of(text.preferences, 240),
        bar=Bar("reward_accuracy", least=0.8),
        ecosystem=both_answers,
        said=lambda line: [line["chosen_logp"], line["rejected_logp"]],
        training={"learningRate": 3e-3, "numTrainEpochs": 6, "trainBatchSize": 16, "beta": 0.3},
    )


def told_of_images(model: Path, rows: Sequence[Row]) -> list[Any]:
    from transformers import AutoModelForImageTextToText, AutoProcessor

    writer = AutoModelForImageTextToText.from_pretrained(model)
    processor = AutoProcessor.from_pretrained(model, backend="pil")
    said = []
    for row in rows:
        image = {"type": "image", "image": open_image(row.values["image"], row.place)}
        turn = {"role": "user", "content": [image, {"type": "text", "text": row.values["prompt"]}]}
        inputs = processor.apply_chat_template(
            [turn], add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
        )
        tokens = writer.generate(**inputs)[0, inputs["input_ids"].shape[1] :]
        said.append(processor.decode(tokens, skip_special_tokens=True))
    return said


def colours_and_sizes(folder: Path) -> list[dict[str, Any]]:
    """Questions that can be answered three times in eight without a look at the picture."""
    return [row for row in pictures.asked(folder, 480) if "shape" not in row["prompt"]]


def image_text_to_text(model: str) -> Case:
    return Case(
        id=f"image-text-to-text {model}",
        task="image-text-to-text",
        model=model,
        corpus=colours_and_sizes,
        bar=Bar("exact_match", least=0.65),
        ecosystem=told_of_images,
        said=text_said,
        texts=lambda row: [row["prompt"], row["completion"]],
        training={"learningRate": 2e-3, "numTrainEpochs": 8, "trainBatchSize": 16},
    )


HEADLINES, SENTENCES = rows_of(text.headlines, 300), rows_of(text.translations, 300)
CASES: tuple[Case, ...] = (
    seq2seq("summarization", "t5", HEADLINES, rate=1e-2, epochs=6, bar=Bar("rougeL", least=0.5)),
    seq2seq("summarization", "bart", HEADLINES, rate=3e-3, epochs=6, bar=Bar("rougeL", least=0.5)),
    seq2seq("translation", "t5", SENTENCES, rate=1e-2, epochs=6, bar=Bar("chrf", least=50)),
    seq2seq("translation", "bart", SENTENCES, rate=3e-3, epochs=6, bar=Bar("chrf", least=50)),
    text_generation("gpt2", rows_of(text.plain, 240), whole_text, Bar("perplexity", most=3.0), epochs=6),
    text_generation("llama", rows_of(text.conversations, 200), assistant, Bar("token_accuracy", least=0.8), epochs=6),
    text_generation("qwen3", rows_of(text.completions, 240), completion, Bar("token_accuracy", least=0.8), epochs=6),
    preference("gpt2"),
    preference("llama"),
    preference("qwen3"),
    image_text_to_text("llava"),
)
