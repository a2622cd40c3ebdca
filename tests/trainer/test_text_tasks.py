"""What the tasks on text promise beside the matrix: padding, words, windows and hidden tokens."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from finetune_api.job import Task
from finetune_api.run import RunConfig
from finetune_trainer.data.columns import Answer
from finetune_trainer.data.rows import Row
from finetune_trainer.model_folder import Needs, read_folder
from finetune_trainer.tasks import TASKS, texts
from finetune_trainer.tasks.base import TaskKind
from finetune_trainer.tasks.question_answering import LONGEST_ANSWER, UNANSWERABLE, best_span
from finetune_trainer.tasks.token_classification import first_tokens
from support import zoo
from support.corpora import text
from support.runs import a_run

pytestmark = pytest.mark.torch
DECODERS = ("gpt2", "llama", "qwen3")
ENCODERS = ("bert", "roberta", "distilbert")
SENTENCES = [" ".join(row["tokens"]) for row in text.tagged(60)]
Zoo = Callable[[str], Path]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    """Folder of one of the zoo's models, made once."""
    made: dict[str, Path] = {}

    def folder(kind: str) -> Path:
        if kind not in made:
            made[kind] = zoo.save(kind, tmp_path_factory.mktemp(kind), SENTENCES)
        return made[kind]

    return folder


def task_of(name: str, folder: Path, labels: Sequence[str] = (), **training: Any) -> Any:
    kind = TASKS[Task(name)]
    config = RunConfig.model_validate({**a_run(folder, "./rows", "./model", **training).config, "task": name})
    return kind.load(read_folder(folder, "./model", Needs(kind.auto_classes, kind.parts)), labels, config)


def rows(values: Sequence[Mapping[str, Any]]) -> list[Row]:
    return [Row(value, "./rows.jsonl", number) for number, value in enumerate(values, start=1)]


def logits(task: TaskKind, model: Any, texts: Sequence[str]) -> Any:
    import torch

    examples, _ = task.encode(rows([{"text": item} for item in texts]))
    with torch.no_grad():
        return model.eval()(**task.collate(examples).inputs).logits


@pytest.mark.parametrize("kind", DECODERS)
def test_a_decoder_classifies_by_its_last_token_also_beside_longer_texts(kind: str, model: Zoo) -> None:
    """Also where padding is the end-of-text token, and a text ends with that itself."""
    import torch

    task = task_of("text-classification", model(kind), ["x", "y", "z"])
    classifier, _ = task.load_model()
    end = task.tokenizer.eos_token
    texts = ["mr omar stone", "anna", f"in oslo {end}", "firm lake ltd said today in new york and then mr pavel berg"]
    together = logits(task, classifier, texts)
    torch.testing.assert_close(together, torch.cat([logits(task, classifier, [item]) for item in texts]))

    tokens = torch.tensor([task.tokenizer(texts[0])["input_ids"]])
    with torch.no_grad():
        last = classifier.base_model(tokens).last_hidden_state[0, -1]
        torch.testing.assert_close(together[0], classifier.score(last))


@pytest.mark.parametrize("kind", DECODERS)
def test_a_saved_decoder_knows_its_padding(kind: str, model: Zoo, tmp_path: Path) -> None:
    """Without that transformers would refuse a batch."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    task = task_of("text-classification", model(kind), ["x", "y"])
    task.load_model()[0].save_pretrained(tmp_path)
    task.save(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    classifier = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert tokenizer.pad_token_id is not None
    assert classifier.config.pad_token_id == tokenizer.pad_token_id
    assert classifier(**tokenizer(SENTENCES[:3], padding=True, return_tensors="pt")).logits.shape == (3, 2)


@pytest.mark.parametrize(
    ("words", "offsets", "expected"),
    [
        pytest.param(["ab", "c"], [(0, 0), (0, 2), (3, 4), (0, 0)], (1, 2), id="a token a word, and special ones"),
        pytest.param(["abcd", "e"], [(0, 0), (0, 2), (2, 4), (5, 6), (0, 0)], (1, 3), id="several tokens a word"),
        pytest.param(["ab", "c"], [(0, 2), (2, 4)], (0, 1), id="blanks that belong to the next token"),
        pytest.param(["ab", "c"], [(0, 2), (2, 3), (3, 4)], (0, 2), id="blanks with a token of their own"),
        pytest.param(["ab", "c", "d"], [(0, 0), (0, 2), (0, 0)], (1, None, None), id="words that were cut"),
        pytest.param(["ab", "?", "d"], [(0, 0), (0, 2), (5, 6), (0, 0)], (1, None, 2), id="a word without a token"),
        pytest.param(["a", "b", "c"], [(0, 3), (4, 5)], (0, None, 1), id="a token for two words"),
        pytest.param(["é", "b"], [(0, 1), (0, 1), (2, 3)], (0, 2), id="two tokens for one character"),
    ],
)
def test_first_tokens(
    words: Sequence[str], offsets: Sequence[tuple[int, int]], expected: tuple[int | None, ...]
) -> None:
    assert first_tokens(words, offsets) == expected


@pytest.mark.parametrize("kind", [*ENCODERS, *DECODERS])
def test_every_word_is_tagged_at_its_first_token(kind: str, model: Zoo) -> None:
    """With each sort of tokenizer, for words that it knows and words that it takes to pieces."""
    task = task_of("token-classification", model(kind), ["B-X", "O"])
    words = ("anna", "marcolina", "new", "york", "lakes", "ltd", "été")
    (example,), cut = task.encode(rows([{"tokens": words}]))
    assert cut == 0
    firsts = [
        task.tokenizer.decode([example["input_ids"][place]]).strip().replace("##", "") for place in example["words"]
    ]
    assert len(set(example["words"])) == len(words)
    for word, first in zip(words[:-1], firsts, strict=False):
        assert first, word
        assert word.startswith(first)


@pytest.mark.parametrize(
    ("labels", "goal"),
    [
        pytest.param(["B-PER", "I-PER", "O"], "f1", id="entities"),
        pytest.param(["DET", "NOUN", "VERB"], "f1_macro", id="parts of speech"),
    ],
)
def test_words_that_were_cut_count_as_missed(labels: list[str], goal: str, model: Zoo) -> None:
    task = task_of("token-classification", model("bert"), labels, maxLength=8)
    row = rows([{"tokens": ("anna",) * 20, "tags": (labels[0],) * 20}])
    examples, cut = task.encode(row)
    batch = task.collate(examples)
    assert (cut, batch.count) == (1, 6)
    outputs = SimpleNamespace(logits=one_hot(batch.targets["labels"].clamp(min=0), len(labels)))
    (tags,) = predictions = task.predict(None, batch, outputs)
    assert tags == [labels[0]] * 6 + ["O"] * 14
    metrics = task.judge(row, predictions, None).metrics
    found = 2 * 6 / (6 + 20)
    assert (metrics["accuracy"], metrics[goal]) == (pytest.approx(6 / 20), pytest.approx(found))
    assert task.goal.metric == goal


def one_hot(numbers: Any, count: int) -> Any:
    from torch.nn import functional

    return functional.one_hot(numbers, count).float()


@pytest.mark.parametrize("kind", [*ENCODERS, "gpt2", "llama"])
def test_windows_hold_every_answer(kind: str, model: Zoo) -> None:
    """Of long contexts; a window that holds the answer points to exactly its text, another to its first token."""
    task = task_of("question-answering", model(kind), UNANSWERABLE)
    asked = [
        {**row, "answers": tuple(map(Answer, row["answers"]["text"], row["answers"]["answer_start"]))}
        for row in text.questions(40, long=0.5)
    ]
    examples, cut = task.encode(rows(asked))
    assert cut == 0
    assert max(len(example["windows"]) for example in examples) > 1
    for row, example in zip(asked, examples, strict=True):
        found = {
            told(window, target, row["context"])
            for window, target in zip(example["windows"], example["targets"], strict=True)
        }
        assert found - {None} == {answer.text for answer in row["answers"]}
        assert all(len(window["input_ids"]) <= task.limit for window in example["windows"])


def told(window: Mapping[str, Any], target: tuple[int, int], context: str) -> str | None:
    """The text that a target points to; None if it is the window's first token."""
    if target == (0, 0):
        return None
    first, last = (token - window["first"] for token in target)
    return context[window["spans"][first, 0] : window["spans"][last, 1]].strip()


def test_a_question_never_crowds_out_its_context(model: Zoo) -> None:
    task = task_of("question-answering", model("bert"))
    (example,), cut = task.encode(
        rows([{"question": "who " * 90, "context": "anna left", "answers": (Answer("anna", 0),)}])
    )
    assert cut == 1
    assert [
        told(window, target, "anna left") for window, target in zip(example["windows"], example["targets"], strict=True)
    ] == ["anna"]


def test_an_answer_that_no_window_holds_is_counted(model: Zoo) -> None:
    task = task_of("question-answering", model("bert"))
    context = "anna " * 80
    _, cut = task.encode(rows([{"question": "who", "context": context, "answers": (Answer(context[:-1], 0),)}]))
    assert cut == 1


@pytest.mark.parametrize("labels", [pytest.param(UNANSWERABLE, id="with"), pytest.param([], id="without")])
def test_an_answer_is_empty_only_where_training_had_such(labels: list[str], model: Zoo) -> None:
    """Where the first token is more probable than any span."""
    import torch

    task = task_of("question-answering", model("bert"), labels)
    batch = task.collate(task.encode(rows([{"question": "who", "context": "anna left"}]))[0])
    logits = torch.full(batch.inputs["input_ids"].shape, -2.0)
    logits[:, 0], logits[:, 3] = 2.0, 1.0
    (found,) = task.predict(None, batch, SimpleNamespace(start_logits=logits, end_logits=logits))
    assert (found.text, found.start) == (("", None) if labels else ("anna", 0))


@pytest.mark.parametrize("tokens", [1, 7, LONGEST_ANSWER, 80])
def test_best_span(tokens: int) -> None:
    """Against every span there is."""
    import numpy

    draw = numpy.random.default_rng(tokens)
    starts, ends = draw.normal(size=(2, tokens))
    spans = [(i, j) for i in range(tokens) for j in range(i, min(tokens, i + LONGEST_ANSWER))]
    first, last = max(spans, key=lambda span: starts[span[0]] + ends[span[1]])
    assert best_span(starts, ends) == (first, last, pytest.approx(starts[first] + ends[last]))


def hidden_in(task: Any, count: int) -> tuple[list[dict[str, Any]], Any]:
    """Examples with their draws, and the batch that hides tokens of them."""
    examples, _ = task.encode(rows([{"text": SENTENCES[number % len(SENTENCES)]} for number in range(count)]))
    drawn = [{**example, "draw": number} for number, example in enumerate(examples)]
    return drawn, task.collate(drawn)


@pytest.mark.parametrize("kind", ENCODERS)
def test_hidden_tokens(kind: str, model: Zoo) -> None:
    """About 15 of 100 and one at least, no special one; 8 of 10 are masked, one is another token, one stays."""
    task = task_of("fill-mask", model(kind))
    examples, batch = hidden_in(task, 600)
    known = [sum(token not in task.special for token in example["input_ids"]) for example in examples]
    assert [len(hidden) for hidden in batch.notes] == [max(1, round(0.15 * count)) for count in known]
    every = [item for hidden in batch.notes for item in hidden]
    assert not {item.token for item in every} & task.special
    fates = Counter("mask" if item.read == task.tokenizer.mask_token_id else item.read == item.token for item in every)
    shares = [fates[fate] / len(every) for fate in ("mask", True, False)]
    assert shares == [pytest.approx(0.8, abs=0.06), pytest.approx(0.1, abs=0.05), pytest.approx(0.1, abs=0.05)]
    assert not {item.read for item in every} & (task.special - {task.tokenizer.mask_token_id})


def test_the_same_draw_hides_the_same_whatever_it_is_batched_with(model: Zoo) -> None:
    task = task_of("fill-mask", model("bert"))
    examples, batch = hidden_in(task, 8)
    assert [task.collate([example]).notes[0] for example in examples] == batch.notes
    assert task.collate([{**example, "draw": 99} for example in examples]).notes != batch.notes
    (plain, *_), _ = task.encode(rows([{"text": SENTENCES[0]}]))
    assert task.collate([plain]).inputs["input_ids"].tolist() == [plain["input_ids"]]


@pytest.mark.parametrize("kind", ENCODERS)
def test_tied_embeddings_stay_tied(kind: str, model: Zoo, tmp_path: Path) -> None:
    """Through training, saving and loading."""
    import torch
    from transformers import AutoModelForMaskedLM

    task = task_of("fill-mask", model(kind))
    filler, _ = task.load_model()
    _, batch = hidden_in(task, 8)
    before = filler.get_input_embeddings().weight.detach().clone()
    optimizer = torch.optim.SGD(filler.parameters(), lr=0.1)
    task.loss(filler(**batch.inputs), batch).backward()
    optimizer.step()
    filler.save_pretrained(tmp_path)
    loaded = AutoModelForMaskedLM.from_pretrained(tmp_path)
    assert loaded.get_output_embeddings().weight is loaded.get_input_embeddings().weight
    assert not torch.equal(loaded.get_input_embeddings().weight, before)
    torch.testing.assert_close(loaded.get_input_embeddings().weight, filler.get_input_embeddings().weight)


def test_a_text_may_be_of_any_length_where_nothing_limits_it(model: Zoo) -> None:
    """Tokenizers without a limit say 10 to the 30, which their own library does not take."""
    task = task_of("text-classification", model("bert"), ["x", "y"])
    task.tokenizer.model_max_length = int(1e30)
    limit = texts.longest(replace(task.source, positions=None), task.tokenizer, task.config)
    encoded, cut = texts.encode(task.tokenizer, rows([{"text": "anna " * 500}]), limit, truncation=True)
    assert (len(encoded[0]["input_ids"]), cut) == (502, 0)
