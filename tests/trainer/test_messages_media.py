"""What the tasks on images and sound say of rows and models that cannot work: whole messages, one case each.

Each case is taken as far as a run goes before its first step: rows and model checked, rows encoded, model loaded.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy
import pytest
import soundfile
from PIL import Image

from finetune_api.run import RunConfig
from finetune_trainer.data.prepare import load_data
from finetune_trainer.data.split import Side
from finetune_trainer.errors import RunError
from finetune_trainer.methods import METHODS
from finetune_trainer.preflight import check_inputs
from finetune_trainer.tasks import TASKS
from finetune_trainer.training.world import World
from support import zoo
from support.corpora.files import write_json_lines
from support.runs import ARun, a_run

pytestmark = pytest.mark.torch
RATE = 16_000
TEXTS = ["one two", "two one", "one", "two"]
IMAGES_THAT_WORK = "give a PNG, JPEG, WebP, BMP, GIF or TIFF file, or remove the row"
SOUNDS_THAT_WORK = "give a WAV, FLAC, OGG or MP3 file with at least one sample, or remove the row"


@dataclass(frozen=True)
class Setting:
    """A task with a model of the zoo and 24 good rows in a folder, not written yet."""

    run: ARun
    rows: list[dict[str, Any]]

    @property
    def folder(self) -> Path:
        return self.run.root

    def with_training(self, **fields: Any) -> Setting:
        return replace(self, run=self.run.with_("training", **fields))

    def with_model(self, **fields: Any) -> Setting:
        return replace(self, run=ARun(self.folder, {**self.run.config, "model": fields}))

    def with_columns(self, **names: str) -> Setting:
        return replace(self, run=self.run.with_("dataset", columns=names))


Models = Callable[[str], str]


@pytest.fixture(scope="module")
def uri_of(tmp_path_factory: pytest.TempPathFactory) -> Models:
    """URI of a model of the zoo, made once."""
    made: dict[str, str] = {}

    def model(kind: str) -> str:
        if kind not in made:
            made[kind] = zoo.save(kind, tmp_path_factory.mktemp("model") / kind, TEXTS).as_uri()
        return made[kind]

    return model


def setting(task: str, model: str, root: Path, uri_of: Models) -> Setting:
    rows = []
    for number in range(1, 25):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(root / f"{number}.png")
        soundfile.write(root / f"{number}.wav", numpy.sin(numpy.arange(RATE) * number / 50) / 2, RATE)
        files = {"image": f"{number}.png", "audio": f"{number}.wav"}
        rows.append({**files, "text": TEXTS[number % 4], "label": "ab"[number % 2]})
    run = a_run(root, "./rows.jsonl", uri_of(model) if model else "")
    return Setting(ARun(root, {**run.config, "task": task}), rows)


def go_as_far_as_the_first_step(given: Setting) -> None:
    import torch

    write_json_lines(given.folder / "rows.jsonl", given.rows)
    config = RunConfig.model_validate(given.run.config)
    facts, data = check_inputs(config, None), load_data(config)
    task = TASKS[config.task].load(facts.folder, data.labels, config)
    examples = {side: task.encode(rows)[0] for side, rows in data.sides.items()}
    model, new = task.load_model()
    METHODS[config.method.type](config.method).prepare(model, new)
    task.prepare(model, examples, World(0, 1, torch.device("cpu")))


def no_such_file(given: Setting) -> Setting:
    given.rows[4]["image"] = "missing.png"
    return given


def not_an_image(given: Setting) -> Setting:
    (given.folder / "3.png").write_text("no picture")
    return given


def half_an_image(given: Setting) -> Setting:
    noise = numpy.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype="uint8")
    Image.fromarray(noise).save(given.folder / "3.png")
    content = (given.folder / "3.png").read_bytes()
    (given.folder / "3.png").write_bytes(content[: len(content) // 2])
    return given


def not_a_sound(given: Setting) -> Setting:
    (given.folder / "3.wav").write_text("no sound")
    return given


def an_empty_sound(given: Setting) -> Setting:
    soundfile.write(given.folder / "3.wav", numpy.zeros(0), RATE)
    return given


def a_click(given: Setting) -> Setting:
    soundfile.write(given.folder / "3.wav", numpy.ones(100) / 2, RATE)
    return given


def a_long_sound(given: Setting) -> Setting:
    soundfile.write(given.folder / "3.wav", numpy.zeros(3 * RATE), RATE)
    return given.with_training(truncation=False)


def one_label(given: Setting) -> Setting:
    for row in given.rows:
        row["label"] = "a"
    return given


def several_labels(given: Setting) -> Setting:
    given.rows[6]["label"] = ["a", "b"]
    return given


def capital_letters(given: Setting) -> Setting:
    for row in given.rows:
        row["text"] = row["text"].replace(" ", "").upper()
    return given


def long_texts(given: Setting) -> Setting:
    for row in given.rows:
        row["text"] = "one two " * 20
    return given


def a_sigmoid_model(given: Setting) -> Setting:
    """SigLIP compares each pair by itself."""
    from transformers import SiglipConfig, SiglipModel

    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = SiglipConfig(text_config={**sizes, "vocab_size": 500}, vision_config={**sizes, "image_size": 32})
    source, folder = Path(given.run.config["model"]["uri"].removeprefix("file://")), given.folder / "siglip"
    shutil.copytree(source, folder)
    SiglipModel(config).save_pretrained(folder)
    return given.with_model(uri=folder.as_uri())


def a_model_of_text(given: Setting) -> Setting:
    folder = given.folder / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "bert"}))
    return given.with_model(uri="./model")


def no_processor(given: Setting) -> Setting:
    folder = given.folder / "model"
    shutil.copytree(given.run.config["model"]["uri"].removeprefix("file://"), folder)
    (folder / "preprocessor_config.json").unlink()
    return given.with_model(uri="./model")


CASES = [
    pytest.param(
        "image-classification",
        "vit",
        no_such_file,
        "NoSuchFile",
        "row 5 of ./rows.jsonl: column 'image' (image) names missing.png, which does not exist",
        "write paths relative to the data file's folder, or absolute ones",
        id="an image that is not there",
    ),
    pytest.param(
        "image-classification",
        "vit",
        not_an_image,
        "UnreadableImage",
        "row 3 of ./rows.jsonl: 3.png cannot be read as an image: no known format",
        IMAGES_THAT_WORK,
        id="a file that is no image",
    ),
    pytest.param(
        "image-classification",
        "vit",
        half_an_image,
        "UnreadableImage",
        "row 3 of ./rows.jsonl: 3.png cannot be read as an image: image file is truncated",
        IMAGES_THAT_WORK,
        id="an image that was cut off",
    ),
    pytest.param(
        "image-classification",
        "vit",
        one_label,
        "OneLabel",
        "all 18 training rows have the label 'a'",
        "give rows of at least two labels; see spec.dataset.columns.label",
        id="images of one class",
    ),
    pytest.param(
        "image-classification",
        "vit",
        several_labels,
        "SeveralLabels",
        "row 7 of ./rows.jsonl has 2 labels",
        "set spec.dataset.problemType: MultiLabel, or give it one label",
        id="an image of several classes",
    ),
    pytest.param(
        "image-classification",
        "vit",
        no_processor,
        "NotAModel",
        "spec.model.uri: ./model has no image processor",
        "it needs one of preprocessor_config.json, processor_config.json",
        id="a model without an image processor",
    ),
    pytest.param(
        "image-classification",
        "resnet",
        lambda given: replace(given, run=given.run.with_("method", type="lora")),
        "ModuleNotFound",
        "spec.method.type: the model has no linear layer that could get an adapter",
        "use full, which trains all of it",
        id="adapters for a model without linear layers",
    ),
    pytest.param(
        "audio-classification",
        "wav2vec2",
        not_a_sound,
        "UnreadableAudio",
        "row 3 of ./rows.jsonl: 3.wav cannot be read as sound: Format not recognised.",
        SOUNDS_THAT_WORK,
        id="a file that is no sound",
    ),
    pytest.param(
        "audio-classification",
        "wav2vec2",
        an_empty_sound,
        "UnreadableAudio",
        "row 3 of ./rows.jsonl: 3.wav cannot be read as sound: it has no samples",
        SOUNDS_THAT_WORK,
        id="an empty sound",
    ),
    pytest.param(
        "audio-classification",
        "wav2vec2",
        a_click,
        "TooShort",
        "row 3 of ./rows.jsonl: 3.wav has 100 samples at 16000 Hz",
        "the model hears nothing in fewer than 400; remove the row",
        id="a clip too short to be heard",
    ),
    pytest.param(
        "audio-classification",
        "wav2vec2",
        lambda given: a_long_sound(given).with_training(maxLength=20_000),
        "TooLong",
        "row 3 of ./rows.jsonl: the clip has 48000 samples, and the model or maxLength allows 20000",
        "shorten it, or cut such clips with spec.training.truncation: true",
        id="a clip over maxLength that may not be cut",
    ),
    pytest.param(
        "automatic-speech-recognition",
        "wav2vec2",
        capital_letters,
        "UnknownCharacters",
        "row 1 of ./rows.jsonl and the texts after it have no character of the model's vocabulary, only E N O T W",
        "write texts with e n o t w |",
        id="texts in characters that the model does not know",
    ),
    pytest.param(
        "automatic-speech-recognition",
        "wav2vec2",
        long_texts,
        "ClipsTooShort",
        "none of 16 training clips is long enough for its text; row 1 of ./rows.jsonl makes 49 frames, and its text"
        " needs 160",
        "see whether each text belongs to its clip, and to the whole of it",
        id="texts that no clip has room for",
    ),
    pytest.param(
        "automatic-speech-recognition",
        "whisper",
        a_long_sound,
        "TooLong",
        "row 3 of ./rows.jsonl: the clip has 48000 samples, and the model or maxLength allows 32000",
        "shorten it, or cut such clips with spec.training.truncation: true",
        id="a clip longer than Whisper listens",
    ),
    pytest.param(
        "automatic-speech-recognition",
        "whisper",
        lambda given: given.with_training(maxLength=3, truncation=False),
        "TooLong",
        "row 1 of ./rows.jsonl: the text has more than the 3 tokens that the model or maxLength allows",
        "shorten it, or cut such texts with spec.training.truncation: true",
        id="a text over maxLength that may not be cut",
    ),
    pytest.param(
        "image-text-contrastive",
        "clip",
        a_sigmoid_model,
        "UnsupportedModel",
        "spec.model.uri: a siglip model does not compare images and texts as CLIP does",
        "use a CLIP model",
        id="a model with another loss",
    ),
    pytest.param(
        "image-text-contrastive",
        "clip",
        lambda given: given.with_training(maxLength=3, truncation=False),
        "TooLong",
        "row 1 of ./rows.jsonl: the text has more than the 3 tokens that the model or maxLength allows",
        "shorten it, or cut such texts with spec.training.truncation: true",
        id="a caption over maxLength that may not be cut",
    ),
    pytest.param(
        "multimodal-classification",
        "bert",
        lambda given: given,
        "EncodersMissing",
        "spec.model.uri: multimodal-classification joins several encoders",
        "set spec.model.encoders with at least two of text, image, audio",
        id="one model for several modalities",
    ),
]


@pytest.mark.parametrize(("task", "model", "spoil", "reason", "message", "hint"), CASES)
def test_message(
    task: str,
    model: str,
    spoil: Callable[[Setting], Setting],
    reason: str,
    message: str,
    hint: str,
    uri_of: Models,
    tmp_path: Path,
) -> None:
    with pytest.raises(RunError) as caught:
        go_as_far_as_the_first_step(spoil(setting(task, model, tmp_path, uri_of)))
    assert (caught.value.reason, caught.value.message, caught.value.hint) == (reason, message, hint)


def test_another_architecture(tmp_path: Path, uri_of: Models) -> None:
    """The message names what the model is; the hint lists what would do."""
    given = a_model_of_text(setting("image-classification", "", tmp_path, uri_of))
    with pytest.raises(RunError) as caught:
        go_as_far_as_the_first_step(given)
    assert caught.value.message == "spec.model.uri: ./model is a bert model, which cannot do this task"
    assert caught.value.hint is not None
    assert "model types that can: beit," in caught.value.hint


@pytest.mark.parametrize(
    ("spoil", "reason", "message", "hint"),
    [
        pytest.param(
            lambda row: row.pop("image"),
            "ColumnNotFound",
            "spec.model.encoders.image: ./rows.jsonl has no column for it",
            "name one in spec.dataset.columns.image",
            id="an encoder without its column",
        ),
    ],
)
def test_encoders_and_columns(
    spoil: Callable[[dict[str, Any]], Any], reason: str, message: str, hint: str, uri_of: Models, tmp_path: Path
) -> None:
    given = with_encoders(setting("multimodal-classification", "", tmp_path, uri_of), uri_of, text="bert", image="vit")
    for row in given.rows:
        spoil(row)
    with pytest.raises(RunError) as caught:
        go_as_far_as_the_first_step(given)
    assert (caught.value.reason, caught.value.message, caught.value.hint) == (reason, message, hint)


def test_a_column_without_its_encoder(uri_of: Models, tmp_path: Path) -> None:
    """A named one is refused; one that only happens to be there is not read."""
    given = with_encoders(setting("multimodal-classification", "", tmp_path, uri_of), uri_of, text="bert", image="vit")
    go_as_far_as_the_first_step(given)
    with pytest.raises(RunError) as caught:
        go_as_far_as_the_first_step(given.with_columns(audio="audio"))
    assert caught.value.message == "spec.dataset.columns.audio: no encoder reads it"
    assert caught.value.hint == "set spec.model.encoders.audio, or leave it out"


@pytest.mark.parametrize("kind", ["t5", "clip"])
def test_a_model_that_is_no_encoder(kind: str, uri_of: Models, tmp_path: Path) -> None:
    given = with_encoders(setting("multimodal-classification", "", tmp_path, uri_of), uri_of, text=kind, image="vit")
    with pytest.raises(RunError) as caught:
        go_as_far_as_the_first_step(given)
    assert caught.value.message == f"spec.model.encoders: a {kind} model has no states of one kind to join with others"
    assert caught.value.hint == "use encoders such as BERT, ViT, ResNet or Wav2Vec2"


def with_encoders(given: Setting, uri_of: Models, **kinds: str) -> Setting:
    return given.with_model(encoders={name: {"uri": uri_of(kind)} for name, kind in kinds.items()})


def test_other_sizes_and_modes_of_images_are_fine(uri_of: Models, tmp_path: Path) -> None:
    """Whatever they are, the processor makes them one size."""
    given = setting("image-classification", "vit", tmp_path, uri_of)
    Image.new("L", (40, 9)).save(tmp_path / "1.png")
    Image.new("RGBA", (3, 50)).save(tmp_path / "2.png")
    write_json_lines(tmp_path / "rows.jsonl", given.rows)
    config = RunConfig.model_validate(given.run.config)
    rows = sorted((row for side in Side for row in load_data(config).sides[side]), key=lambda row: row.number)
    task = TASKS[config.task].load(check_inputs(config, None).folder, ["a", "b"], config)
    examples, cut = task.encode(rows[:3])
    assert (task.collate(examples).inputs["pixel_values"].shape, cut) == ((3, 3, 32, 32), 0)
