"""What a model hears: clips at its rate, as long as they are, and never the clips beside them."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy
import pytest
import soundfile

from finetune_api.progress import ExitCode
from finetune_api.run import RunConfig
from finetune_trainer.data import columns
from finetune_trainer.data.columns import Where
from finetune_trainer.data.rows import Row
from finetune_trainer.data.split import Side
from finetune_trainer.errors import RunError
from finetune_trainer.model_folder import Needs, read_folder
from finetune_trainer.tasks import TASKS
from finetune_trainer.training.evaluate import evaluation_batches
from finetune_trainer.training.world import World
from support import zoo
from support.corpora.files import write_json_lines
from support.runs import ARun, WarmTrainer, a_run

if TYPE_CHECKING:
    from finetune_trainer.tasks.base import TaskKind

pytestmark = pytest.mark.torch
RATE = 16_000
SECONDS = (0.5, 0.3, 0.31, 0.5, 0.8)
TEXTS = ("one", "two", "four", "one two", "two four")
Models = Callable[[str], Path]
each_norm = pytest.mark.parametrize("kind", ["wav2vec2", "wav2vec2-layer-norm"])


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Models:
    """Folder of a model of the zoo, made once."""
    made: dict[str, Path] = {}

    def model(kind: str) -> Path:
        if kind not in made:
            made[kind] = zoo.save(kind, tmp_path_factory.mktemp("model") / kind, TEXTS)
        return made[kind]

    return model


def clip(folder: Path, number: int, seconds: float, rate: int = RATE) -> columns.Media:
    """A tone of its own pitch in noise."""
    time = numpy.arange(int(seconds * rate)) / rate
    noise = numpy.random.default_rng(number).normal(0, 0.05, len(time))
    soundfile.write(folder / f"{number}.wav", numpy.sin(2 * numpy.pi * 200 * (number + 1) * time) / 2 + noise, rate)
    media: columns.Media = columns.audio(f"{number}.wav", Where(f"row {number}", "audio", "audio", folder))
    return media


def rows_of(folder: Path, seconds: Sequence[float] = SECONDS, rate: int = RATE, **roles: Sequence[str]) -> list[Row]:
    """A row for each duration, with the other roles' values."""
    others = [dict(zip(roles, values, strict=True)) for values in zip(*roles.values(), strict=True)]
    return [
        Row({"audio": clip(folder, number, length, rate), **other}, "clips.jsonl", number)
        for number, (length, other) in enumerate(zip(seconds, others, strict=True), start=1)
    ]


def task_of(name: str, folder: Path, root: Path, labels: Sequence[str], **training: Any) -> TaskKind:
    run = a_run(root, "./rows.jsonl", folder.as_uri(), **training)
    config = RunConfig.model_validate({**run.config, "task": name})
    kind = TASKS[config.task]
    return kind.load(read_folder(folder, "model", Needs(kind.auto_classes, kind.parts)), labels, config)


def answers(task: TaskKind, rows: Sequence[Row], batches: Sequence[Sequence[int]]) -> tuple[list[Any], float]:
    """Logits of each row, and the loss over all, computed in these batches."""
    import torch

    torch.manual_seed(0)
    model, (examples, _) = loaded(task), task.encode(rows)
    found: dict[int, Any] = {}
    loss = 0.0
    with torch.no_grad():
        for batch in batches:
            made = task.collate([examples[index] for index in batch])
            outputs = model(**made.inputs)
            loss += float(task.loss(outputs, made))
            found |= {index: outputs.logits[place].numpy() for place, index in enumerate(batch)}
    return [found[index] for index in range(len(rows))], loss


@each_norm
@pytest.mark.parametrize(
    ("name", "roles", "labels"),
    [
        pytest.param("audio-classification", {"label": ["a", "b", "a", "b", "a"]}, ["a", "b"], id="labels"),
        pytest.param("automatic-speech-recognition", {"text": TEXTS}, [], id="texts"),
    ],
)
def test_a_clip_does_not_hear_the_others(
    name: str, roles: dict[str, list[str]], labels: list[str], kind: str, saved: Models, tmp_path: Path
) -> None:
    """Logits and loss are those of each clip alone."""
    task, rows = task_of(name, saved(kind), tmp_path, labels), rows_of(tmp_path, **roles)
    together = evaluation_batches(task, task.encode(rows)[0])
    alone, loss_alone = answers(task, rows, [[index] for index in range(len(rows))])
    beside, loss_beside = answers(task, rows, together)
    assert len(together) == {"wav2vec2": 4, "wav2vec2-layer-norm": 1}[kind]
    assert loss_beside == pytest.approx(loss_alone, rel=1e-4)
    for one, other in zip(alone, beside, strict=True):
        numpy.testing.assert_allclose(other[: len(one)], one, rtol=1e-3, atol=1e-4)


def test_padding_would_show_where_it_is_not_used(saved: Models, tmp_path: Path) -> None:
    """A norm over the whole clip takes padding for silence: that is why such clips are not put together."""
    task = task_of("audio-classification", saved("wav2vec2"), tmp_path, ["a", "b"])
    rows = rows_of(tmp_path, label=["a", "b", "a", "b", "a"])
    alone, _ = answers(task, rows, [[index] for index in range(len(rows))])
    padded, _ = answers(task, rows, [list(range(len(rows)))])
    assert numpy.abs(numpy.stack(alone) - numpy.stack(padded)).max() > 1e-3


@each_norm
def test_frames_are_those_of_the_model(kind: str, saved: Models) -> None:
    import torch
    from transformers import AutoModel

    from finetune_trainer.tasks.sounds import frames, shortest

    model = AutoModel.from_pretrained(saved(kind))
    least = shortest(model.config)
    lengths = [least, least + 1, 719, 720, 16_000, 16_001]
    assert [frames(model.config, length) for length in lengths] == [
        int(model._get_feat_extract_output_lengths(torch.tensor(length))) for length in lengths
    ]
    assert (frames(model.config, least - 1), frames(model.config, least)) == (0, 1)


def test_another_rate_is_resampled_and_told_of(saved: Models, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    task = task_of("audio-classification", saved("wav2vec2"), tmp_path, ["a", "b"])
    rows = [
        *rows_of(tmp_path, (0.5, 0.5), 8_000, label=["a", "b"]),
        Row({"audio": clip(tmp_path, 9, 0.5), "label": "a"}, "clips.jsonl", 9),
    ]
    with caplog.at_level(logging.INFO):
        examples, _ = task.encode(rows)
    assert [example["samples"] for example in examples] == [8_000] * 3
    assert caplog.messages == ["2 of 3 clips were resampled from 8000 to 16000 Hz"]


@pytest.mark.parametrize("truncation", [pytest.param(True, id="cut"), pytest.param(False, id="refused")])
def test_long_clips(truncation: bool, saved: Models, tmp_path: Path) -> None:
    folder = saved("wav2vec2")
    task = task_of("audio-classification", folder, tmp_path, ["a", "b"], maxLength=6_400, truncation=truncation)
    rows = rows_of(tmp_path, label=["a", "b", "a", "b", "a"])
    if truncation:
        examples, cut = task.encode(rows)
        assert ([example["samples"] for example in examples], cut) == ([6_400, 4_800, 4_960, 6_400, 6_400], 3)
        assert task.collate(examples[:1]).inputs["input_values"].shape == (1, 6_400)
        return
    with pytest.raises(RunError, match=r"row 1 of clips\.jsonl: the clip has 8000 samples"):
        task.encode(rows)


def test_a_model_without_a_vocabulary_gets_one_of_the_texts(saved: Models, tmp_path: Path) -> None:
    """Its blank, the spaces and the characters of the training texts; the saved model knows them."""
    folder = tmp_path / "bare"
    folder.mkdir()
    for name in ("config.json", "model.safetensors"):
        (folder / name).write_bytes((saved("wav2vec2") / name).read_bytes())
    processor = next(path for path in saved("wav2vec2").glob("*processor_config.json"))
    (folder / processor.name).write_bytes(processor.read_bytes())
    task = task_of("automatic-speech-recognition", folder, tmp_path, sorted(set("".join(TEXTS))))
    model, new = task.load_model()
    assert (model.config.vocab_size, new) == (5 + len(set("".join(TEXTS)) - {" "}), ["lm_head.bias", "lm_head.weight"])
    (example,), _ = task.encode(rows_of(tmp_path, [1.0], text=["two four"]))
    task.save(tmp_path / "model")

    from transformers import AutoTokenizer

    assert AutoTokenizer.from_pretrained(tmp_path / "model").decode(example["tokens"]) == "two four"


def test_clips_too_short_for_their_text_do_not_count(
    saved: Models, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither in the loss nor in what it is divided by, and the rows are named."""
    task = task_of("automatic-speech-recognition", saved("wav2vec2-layer-norm"), tmp_path, [])
    texts = ["one", "two four one two four", "four"]
    rows = rows_of(tmp_path, (0.5, 0.1, 0.5), text=texts)
    with caplog.at_level(logging.WARNING):
        examples, _ = task.encode(rows)
    assert caplog.messages == ["1 of 3 clips are too short for their text, and are not learned from: rows 2"]
    assert task.collate(examples).count == len("one") + len("four")
    _, both = answers(task, [rows[0], rows[2]], [[0, 1]])
    _, all_three = answers(task, rows, [[0, 1, 2]])
    assert all_three == pytest.approx(both, rel=1e-4)


@each_norm
def test_the_loss_of_moments_is_that_of_transformers(kind: str, saved: Models, tmp_path: Path) -> None:
    """Summed over the clips, from labels and lengths that transformers finds by itself."""
    task = task_of("automatic-speech-recognition", saved(kind), tmp_path, [])
    rows = rows_of(tmp_path, [0.5] * 5, text=TEXTS)
    model, batch = loaded(task), task.collate(task.encode(rows)[0])
    model.config.ctc_loss_reduction = "sum"
    labels = task.tokenizer(list(TEXTS), padding=True, return_tensors="pt")  # type: ignore[attr-defined]
    targets = labels.input_ids.masked_fill(labels.attention_mask == 0, -100)
    theirs = model(**batch.inputs, labels=targets).loss
    assert task.loss(model(**batch.inputs), batch).item() == pytest.approx(theirs.item(), rel=1e-5)
    assert batch.count == sum(map(len, TEXTS))


def test_the_loss_of_writing_is_that_of_transformers(saved: Models, tmp_path: Path) -> None:
    """A mean over tokens there, a sum and its count here; the text's first token is where the decoder starts."""
    task = task_of("automatic-speech-recognition", saved("whisper"), tmp_path, [])
    rows = rows_of(tmp_path, [0.5] * 5, text=TEXTS)
    model, batch = loaded(task), task.collate(task.encode(rows)[0])
    labels = task.tokenizer(list(TEXTS), padding=True, return_tensors="pt")  # type: ignore[attr-defined]
    targets = labels.input_ids.masked_fill(labels.attention_mask == 0, -100)[:, 1:]
    theirs = model(batch.inputs["input_features"], labels=targets).loss
    ours = task.loss(model(**batch.inputs), batch).item() / batch.count
    assert ours == pytest.approx(theirs.item(), rel=1e-5)
    assert batch.count == int((targets != -100).sum())


def loaded(task: TaskKind) -> Any:
    import torch

    model, _ = task.load_model()
    torch.nn.Module.eval(model)
    return model


def test_unknown_characters_are_left_out_and_told_of(
    saved: Models, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    task = task_of("automatic-speech-recognition", saved("wav2vec2"), tmp_path, [])
    with caplog.at_level(logging.WARNING):
        first, second = task.encode(rows_of(tmp_path, (0.5, 0.5), text=["one!", "one"]))[0]
    assert caplog.messages == ["1 of 7 characters are not in the model's vocabulary and were left out: !"]
    assert first["tokens"] == second["tokens"]


def test_whisper_without_a_language_learns_in_the_one_that_it_hears(saved: Models, tmp_path: Path) -> None:
    """Texts then begin as generation does, also in the saved model."""
    import torch

    folder = tmp_path / "whisper"
    shutil.copytree(saved("whisper"), folder)
    file = folder / "tokenizer_config.json"
    silent = {name: value for name, value in json.loads(file.read_text()).items() if name not in ("language", "task")}
    file.write_text(json.dumps(silent))
    task = task_of("automatic-speech-recognition", folder, tmp_path, [])
    before, _ = task.encode(rows_of(tmp_path, text=TEXTS))
    model, _ = task.load_model()
    examples = {Side.TRAIN: before, Side.VALIDATION: before[:2], Side.TEST: []}
    after = task.prepare(model, examples, World(0, 1, torch.device("cpu")))

    language = model.generation_config.language
    from transformers import WhisperTokenizer

    fixed = WhisperTokenizer.from_pretrained(folder, language=language, task="transcribe")
    assert language in ("en", "de")
    assert [example["tokens"] for example in after[Side.TRAIN]] == [fixed(text).input_ids for text in TEXTS]
    assert list(after[Side.VALIDATION]) == list(after[Side.TRAIN])[:2]


def test_a_step_of_clips_that_do_not_count_is_no_fault(trainer: WarmTrainer, saved: Models, tmp_path: Path) -> None:
    """With one row a step some steps have nothing to learn from; the run goes on, and its numbers stay finite."""
    rows = [{"audio": f"{number}.wav", "text": "one two four" * 20 if number % 2 else "one"} for number in range(1, 17)]
    for number in range(1, 17):
        clip(tmp_path, number, 0.3)
    data = write_json_lines(tmp_path / "rows.jsonl", rows)
    run = a_run(tmp_path, data.as_uri(), saved("wav2vec2-layer-norm").as_uri(), numTrainEpochs=1, trainBatchSize=1)
    ended = trainer.run(ARun(tmp_path, {**run.config, "task": "automatic-speech-recognition"}))
    assert ended.code == ExitCode.DONE, ended.log
    losses = [line["loss"] for line in run.lines("metrics.jsonl") if "loss" in line]
    assert numpy.isfinite(losses).all()
    assert 0.0 in losses
