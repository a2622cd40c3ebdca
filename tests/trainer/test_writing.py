"""Tasks that write, against plain code: their losses, their perplexity, and the texts that the saved model writes."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from finetune_api.job import Task
from finetune_api.method import Method
from finetune_api.progress import ExitCode
from finetune_trainer.data.columns import Where, image
from finetune_trainer.data.split import Side
from finetune_trainer.methods.lora import LowRank
from finetune_trainer.predict import main as predict
from finetune_trainer.tasks import TASKS
from finetune_trainer.tasks.base import Example, TaskKind
from support import zoo
from support.card_lines import answer_of
from support.corpora import text
from support.corpora.files import write_json_lines
from support.runs import ARun, WarmTrainer, a_run
from support.tasks import open_task, rows_of

if TYPE_CHECKING:
    from torch import nn

pytestmark = pytest.mark.torch
TEXTS = [row["text"] for row in text.plain(200)] + ["you take orders"]
BETA = 0.3
POSITIONS = 128

Values = Mapping[str, Any]
Folder = Callable[[str], Path]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    """A model of the zoo, made once for each kind."""
    return zoo.kept(tmp_path_factory.mktemp("zoo"), TEXTS)


def prepared(task: TaskKind, model: nn.Module, values: Sequence[Values]) -> Sequence[Example]:
    """Examples as a run has them when training begins."""
    import torch

    from finetune_trainer.training.world import World

    examples, _ = task.encode(rows_of(values))
    return task.prepare(model, {Side.TRAIN: examples}, World(0, 1, torch.device("cpu")))[Side.TRAIN]


def loaded(task: TaskKind) -> Any:
    """The task's model, ready to be asked."""
    import torch

    model, _ = task.load_model()
    return torch.nn.Module.eval(model)


def answers(task: TaskKind, model: Any, examples: Sequence[Example]) -> list[str]:
    """What the model writes, asked as `finetune predict` asks it."""
    import torch

    with torch.no_grad():
        return [answer["generated_text"] for answer in task.answer(model, examples)]


def mean_loss(task: TaskKind, model: Any, examples: Sequence[Example]) -> float:
    """Over all that the task counts."""
    import torch

    batch = task.collate(examples)
    with torch.no_grad():
        return float(task.loss(model(**batch.inputs), batch)) / batch.count


@pytest.mark.parametrize("kind", ["t5", "bart"])
def test_the_loss_of_a_translation_is_transformers_own(folder: Folder, kind: str) -> None:
    """Cross-entropy over the tokens of targets of different lengths, as the model computes it from labels."""
    import torch

    rows = [*text.translations(4), {"source": "order", "target": "un"}]
    task = open_task("translation", folder(kind))
    model, tokenizer = loaded(task), task.tokenizer  # type: ignore[attr-defined]
    read = tokenizer([row["source"] for row in rows], padding=True, return_tensors="pt")
    labels = tokenizer(text_target=[row["target"] for row in rows], padding=True, return_tensors="pt")
    labels = labels["input_ids"].masked_fill(labels["attention_mask"] == 0, -100)
    with torch.no_grad():
        expected = float(model(**read, labels=labels).loss)
    assert mean_loss(task, model, prepared(task, model, rows)) == pytest.approx(expected, rel=1e-5)


def test_perplexity_does_not_depend_on_the_batch(folder: Folder) -> None:
    """It is that of all tokens of all rows, whatever rows share a batch."""
    import torch

    from finetune_trainer.training.evaluate import Encoded, evaluate
    from finetune_trainer.training.stop import StopFlag
    from finetune_trainer.training.world import World

    rows, found = rows_of([*text.plain(9), {"text": "order"}]), []
    for size in (1, 3, 8):
        task = open_task("text-generation", folder("gpt2"), microBatchSize=size)
        examples, _ = task.encode(rows)
        world = World(0, 1, torch.device("cpu"))
        evaluation = evaluate(loaded(task), task, Encoded(rows, examples), world, StopFlag())
        assert evaluation is not None
        found.append(evaluation.report.metrics)
    assert found[1:] == [pytest.approx(found[0], rel=1e-5)] * 2
    assert found[0]["perplexity"] == pytest.approx(math.exp(found[0]["loss"]), rel=1e-5)


def plain_log_likelihood(model: Any, tokenizer: Any, prompt: str, answer: str) -> float:
    """Of an answer and its end after a prompt, by transformers' own loss of one text."""
    import torch

    before = tokenizer(prompt, return_tensors="pt")["input_ids"]
    whole = tokenizer(prompt + answer + tokenizer.eos_token, return_tensors="pt")["input_ids"]
    labels = whole.clone()
    labels[:, : before.shape[1]] = -100
    with torch.no_grad():
        loss = float(model(input_ids=whole, labels=labels).loss)
    return -loss * (whole.shape[1] - before.shape[1])


@pytest.mark.parametrize("kind", ["gpt2", "llama", "qwen3"])
def test_preferences_have_the_loss_and_the_rewards_of_the_paper(folder: Folder, kind: str) -> None:
    """-log sigmoid of beta times how much more the answers' likelihoods differ than under the model before training."""
    import torch

    rows = text.preferences(5)
    task = open_task("preference-optimization", folder(kind), beta=BETA)
    model, tokenizer = loaded(task), task.tokenizer  # type: ignore[attr-defined]
    before = copy.deepcopy(model)
    examples = prepared(task, model, rows)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.02)

    def reward(row: Values, answer: str) -> float:
        now, then = (plain_log_likelihood(one, tokenizer, row["prompt"], row[answer]) for one in (model, before))
        return BETA * (now - then)

    expected = [(reward(row, "chosen"), reward(row, "rejected")) for row in rows]
    batch = task.collate(examples)
    with torch.no_grad():
        found = task.predict(model, batch, model(**batch.inputs))
    rewards = [(one.chosen_reward, one.rejected_reward) for one in found]
    assert rewards == [pytest.approx(pair, abs=1e-4) for pair in expected]
    losses = [math.log1p(math.exp(rejected - chosen)) for chosen, rejected in expected]
    assert mean_loss(task, model, examples) == pytest.approx(sum(losses) / len(losses), abs=1e-4)


def test_a_long_pair_keeps_the_prompts_end_and_the_answers_beginnings(folder: Folder) -> None:
    """Ten tokens: half of them at least are the prompt's last, and both answers follow the same part."""
    task = open_task("preference-optimization", folder("gpt2"), maxLength=10)
    words = " ".join(["order one red lamp in red"] * 2)
    (example,), cut = task.encode(rows_of([{"prompt": words, "chosen": f" {words}", "rejected": " lamp"}]))
    decode: Any = task.tokenizer.decode  # type: ignore[attr-defined]
    kept = [decode(example[name].tolist()) for name in ("chosen", "rejected")]
    start = decode(example["chosen"][: example["start"]].tolist())
    assert (start, kept, cut) == (
        " one red lamp in red",
        [" one red lamp in red order one red lamp in", " one red lamp in red lamp<|endoftext|>"],
        1,
    )


ASKED = {"role": "user", "content": "order one red lamp"}
SAID = {"role": "assistant", "content": "lamp in red times one"}
PROMPTS = ("order", "order two blue vase", "order one red lamp lamp in red times", " ".join(["order one red"] * 60))


@pytest.mark.parametrize(
    ("kind", "rows"),
    [
        pytest.param("gpt2", [{"text": prompt} for prompt in PROMPTS[:3]], id="texts"),
        pytest.param("gpt2", [{"prompt": prompt} for prompt in PROMPTS[:3]], id="prompts without completions"),
        pytest.param(
            "llama",
            [{"prompt": prompt, "completion": " lamp"} for prompt in PROMPTS[:3]],
            id="prompts, where words begin with a mark",
        ),
        pytest.param("qwen3", [{"messages": (ASKED,)}, {"messages": (ASKED, SAID, ASKED)}], id="messages"),
    ],
)
def test_the_saved_model_writes_what_the_pipeline_writes(
    folder: Folder, tmp_path: Path, kind: str, rows: list[Values]
) -> None:
    """Prompts of different lengths in one batch, against the pipeline with one at a time and only do_sample=False."""
    from transformers import pipeline

    task = open_task("text-generation", folder(kind))
    model = loaded(task)
    trained = [*text.completions(20)] if "messages" not in rows[0] else [{"messages": (ASKED, SAID)}]
    prepared(task, model, trained)
    model.save_pretrained(tmp_path)
    task.save(tmp_path)
    examples, _ = task.encode(rows_of(rows))
    ours = answers(task, model, examples)
    write = pipeline("text-generation", str(tmp_path))
    asked = [list(row["messages"]) if "messages" in row else row.get("text", row.get("prompt")) for row in rows]
    theirs = [write(one, do_sample=False, return_full_text=False)[0]["generated_text"] for one in asked]
    assert ours == theirs
    assert all(ours)


def test_a_prompt_that_fills_the_model_still_has_an_answer(folder: Folder) -> None:
    """Its beginning is cut, so that there are positions left to write to."""
    task = open_task("text-generation", folder("gpt2"))
    model = loaded(task)
    prepared(task, model, text.completions(20))
    prompt = PROMPTS[3]
    assert len(task.tokenizer(prompt)["input_ids"]) > POSITIONS - model.generation_config.max_new_tokens  # type: ignore[attr-defined]
    examples, _ = task.encode(rows_of([{"prompt": prompt}, {"prompt": PROMPTS[0]}]))
    assert answers(task, model, examples) == [answers(task, model, [one])[0] for one in examples]


@pytest.mark.parametrize(
    ("kind", "rows", "settings"),
    [
        pytest.param(
            "gpt2",
            [{"prompt": "order", "completion": " one red lamp"}, {"prompt": "order", "completion": " one"}],
            {"max_new_tokens": 4, "eos_token_id": "<|endoftext|>", "pad_token_id": "<|endoftext|>"},
            id="the longest completion, and a pad token that it did not have",
        ),
        pytest.param(
            "qwen3",
            [{"messages": (ASKED, SAID)}],
            {"eos_token_id": "<|im_end|>", "pad_token_id": "<|endoftext|>"},
            id="the end of a turn",
        ),
        pytest.param(
            "gpt2",
            [{"text": " ".join(["order one red"] * 40)}],
            {"max_new_tokens": POSITIONS // 2, "eos_token_id": "<|endoftext|>", "pad_token_id": "<|endoftext|>"},
            id="half of what the model takes at most",
        ),
    ],
)
def test_the_model_knows_how_long_to_write(folder: Folder, kind: str, rows: list[Values], settings: Values) -> None:
    task = open_task("text-generation", folder(kind))
    model = loaded(task)
    prepared(task, model, rows)
    known = {name: getattr(model.generation_config, name) for name in settings}
    name_of: Any = task.tokenizer.convert_ids_to_tokens  # type: ignore[attr-defined]
    assert {name: name_of(value) if name.endswith("_id") else value for name, value in known.items()} == settings


def test_a_turn_may_end_otherwise_than_a_text(tmp_path: Path) -> None:
    """The token that ends the assistant's turns in the template ends what the model writes, beside the tokenizer's."""
    from transformers import AutoTokenizer

    model_folder = zoo.save("qwen3", tmp_path / "model", TEXTS)
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    tokenizer.eos_token = "<|endoftext|>"
    tokenizer.save_pretrained(model_folder)
    task = open_task("text-generation", model_folder)
    model = loaded(task)
    model.generation_config.eos_token_id = None
    prepared(task, model, [{"messages": (ASKED, SAID)}])
    ends = tokenizer.convert_tokens_to_ids(["<|endoftext|>", "<|im_end|>"])
    assert model.generation_config.eos_token_id == ends


@pytest.mark.parametrize(
    ("task", "kind"),
    [
        pytest.param("text-generation", "gpt2", id="gpt2, whose layers are convolutions"),
        pytest.param("text-generation", "llama", id="llama, with a head of its own"),
        pytest.param("preference-optimization", "qwen3", id="qwen3, whose head is its embeddings"),
        pytest.param("translation", "t5", id="t5, all of which stands outside of a prefix"),
        pytest.param("summarization", "bart", id="bart"),
    ],
)
def test_lora_trains_nothing_but_adapters_in_models_that_write(folder: Folder, task: str, kind: str) -> None:
    """The head that says tokens was learned with the model, so it stays as it is; no adapter is in it either."""
    model, new = open_task(task, folder(kind)).load_model()
    layers = {name for name, module in model.named_modules() if type(module).__name__ in ("Linear", "Conv1D")}
    wrapped = LowRank(Method.model_validate({"type": "lora"})).prepare(model, new)
    trained = {name for name, parameter in wrapped.named_parameters() if parameter.requires_grad}
    adapted = {name.removeprefix("base_model.model.").partition(".lora_")[0] for name in trained}
    assert adapted == layers - {"lm_head"}


@pytest.mark.parametrize(
    ("kind", "merge"),
    [pytest.param("gpt2", False, id="gpt2, adapter beside it"), pytest.param("llama", True, id="llama, merged")],
)
def test_a_run_with_lora_leaves_a_model_for_the_pipeline(
    trainer: WarmTrainer, folder: Folder, tmp_path: Path, kind: str, merge: bool
) -> None:
    """Its evaluation was that of the model that is saved, and it writes the same in the pipeline."""
    from transformers import pipeline

    run = lora_run(tmp_path, folder(kind), merge)
    ended = trainer.run(run)
    assert ended.code == ExitCode.DONE, ended.log
    asked, output = tmp_path / "rows.jsonl", tmp_path / "said.jsonl"
    assert predict([str(run.folder), str(asked), "--output", str(output)]) == ExitCode.DONE
    said = {line["row"]: line for line in map(json.loads, output.read_text().splitlines())}
    tested = {line["row"]: line["nll"] for line in run.lines("predictions.jsonl")}
    assert {row: said[row]["nll"] for row in tested} == pytest.approx(tested, abs=1e-3)
    write, rows = pipeline("text-generation", str(run.folder / "model")), [*map(json.loads, asked.open())]
    for number in sorted(tested)[:5]:
        (answer,) = write(rows[number - 1]["prompt"], do_sample=False, return_full_text=False)
        assert said[number]["generated_text"] == answer["generated_text"]


def lora_run(root: Path, model: Path, merge: bool) -> ARun:
    data = write_json_lines(root / "rows.jsonl", text.completions(80))
    run = a_run(root, data.as_uri(), model.as_uri(), numTrainEpochs=2, learningRate=1e-2)
    run = ARun(root, {**run.config, "task": "text-generation"})
    return run.with_("method", type="lora", lora={"r": 8}).with_("output", mergeAdapter=merge)


@pytest.mark.parametrize(
    ("task", "kind"),
    [
        ("summarization", "t5"),
        ("translation", "bart"),
        ("text-generation", "gpt2"),
        ("preference-optimization", "qwen3"),
        ("image-text-to-text", "llava"),
    ],
)
def test_the_cards_lines_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, task: str, kind: str) -> None:
    """As they stand, beside the folder `model`."""
    from PIL import Image

    zoo.save(kind, tmp_path / "model", TEXTS)
    Image.new("RGB", (32, 32), "red").save(tmp_path / "picture.png")
    monkeypatch.chdir(tmp_path)
    assert answer_of(TASKS[Task(task)].usage) is not None


QUESTIONS = (
    {"prompt": "order one ?", "completion": " red lamp"},
    {"prompt": "order two blue vase ?", "completion": " blue"},
)


def with_pictures(folder: Path, rows: Sequence[Values]) -> list[Values]:
    """Each with a picture of another colour."""
    from PIL import Image

    for number in range(len(rows)):
        Image.new("RGB", (40, 32), (60 * number, 200, 90)).save(folder / f"{number}.png")
    return [
        {**row, "image": image(str(folder / f"{number}.png"), Where("row 1", "image", "image"))}
        for number, row in enumerate(rows)
    ]


def test_the_loss_of_an_answer_about_an_image_is_transformers_own(folder: Folder, tmp_path: Path) -> None:
    """Over completions and ends alone, though image, prompt and completion of both rows differ in length."""
    import torch
    from PIL import Image

    task = open_task("image-text-to-text", folder("llava"))
    model, processor = loaded(task), task.processor  # type: ignore[attr-defined]
    rows, total, tokens = with_pictures(tmp_path, QUESTIONS), 0.0, 0
    for row in rows:
        prompt = f"USER: <image>\n{row['prompt']} ASSISTANT:"
        picture = Image.open(row["image"].path)
        before = processor(images=picture, text=prompt, return_tensors="pt")["input_ids"]
        whole = processor(images=picture, text=f"{prompt}{row['completion']}</s>", return_tensors="pt")
        labels = whole["input_ids"].clone()
        labels[:, : before.shape[1]] = -100
        said = int((labels != -100).sum())
        with torch.no_grad():
            total += float(model(**whole, labels=labels).loss) * said
        tokens += said
    assert mean_loss(task, model, prepared(task, model, rows)) == pytest.approx(total / tokens, rel=1e-4)


def test_without_a_chat_template_the_prompt_follows_the_image(tmp_path: Path) -> None:
    model = zoo.save("llava", tmp_path / "model", TEXTS)
    (model / "chat_template.jinja").unlink()
    examples, _ = open_task("image-text-to-text", model).encode(rows_of(with_pictures(tmp_path, QUESTIONS)))
    assert [example["prompt"] for example in examples] == ["<image>\norder one ?", "<image>\norder two blue vase ?"]


def test_a_model_that_was_made_for_long_summaries_may_write_short_ones(folder: Folder) -> None:
    """Its beams stay, its least length is that of the shortest training target, its greatest that of the longest."""
    task = open_task("summarization", folder("bart"))
    model, tokenizer = loaded(task), task.tokenizer  # type: ignore[attr-defined]
    model.generation_config.update(min_length=56, max_length=142, num_beams=4)
    targets = ("order", "order one red lamp")
    prepared(task, model, [{"source": "order", "target": target} for target in targets])
    least, most = (len(tokenizer(target)["input_ids"]) for target in targets)
    found = model.generation_config
    assert (found.min_length, found.max_new_tokens, found.max_length, found.num_beams) == (least, most, None, 4)
