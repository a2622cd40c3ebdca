"""The tests' own models are what they claim: they load as any checkpoint does, compute, and write."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy
import pytest

from support import zoo

if TYPE_CHECKING:
    import torch

pytestmark = pytest.mark.torch

TEXTS = ["a small red circle left on white ground", "one seven three", "order two red lamps for the house"]
ENCODERS = ("bert", "roberta", "distilbert")
DECODERS = ("gpt2", "llama", "qwen3")
READERS = (*ENCODERS, *DECODERS, "t5", "bart")

Made = Callable[[str], Path]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Folder of a model by its kind, saved once."""
    folders: dict[str, Path] = {}

    def folder(kind: str) -> Path:
        if kind not in folders:
            folders[kind] = zoo.save(kind, tmp_path_factory.mktemp(kind), TEXTS * 20)
        return folders[kind]

    return folder


def load(kind: str, folder: Path) -> torch.nn.Module:
    """By the class that a user would take to go on with such a checkpoint."""
    import transformers

    head = {
        **dict.fromkeys(DECODERS, "AutoModelForCausalLM"),
        **dict.fromkeys(("t5", "bart"), "AutoModelForSeq2SeqLM"),
        "whisper": "AutoModelForSpeechSeq2Seq",
        "llava": "AutoModelForImageTextToText",
    }.get(kind, "AutoModel")
    model, loading = getattr(transformers, head).from_pretrained(folder, output_loading_info=True)
    assert not any(loading.values()), loading
    return model.eval()


def inputs(kind: str, folder: Path) -> Mapping[str, Any]:
    """A batch of two rows of different lengths, as the model's own processor makes it."""
    from transformers import AutoFeatureExtractor, AutoImageProcessor, AutoProcessor, AutoTokenizer

    draw = numpy.random.default_rng(0)
    image = draw.integers(0, 256, (40, 32, 3), dtype=numpy.uint8)
    if kind in READERS:
        tokenizer = AutoTokenizer.from_pretrained(folder)
        tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
        batch = tokenizer(TEXTS[:2], padding=True, return_tensors="pt")
        return {**batch, "decoder_input_ids": batch["input_ids"][:, :3]} if kind in ("t5", "bart") else batch
    if kind in ("resnet", "efficientnet", "vit"):
        return AutoImageProcessor.from_pretrained(folder)([image, numpy.flipud(image).copy()], return_tensors="pt")
    if kind == "clip":
        processor = AutoProcessor.from_pretrained(folder)
        return processor(text=TEXTS[:2], images=[image, numpy.flipud(image).copy()], padding=True, return_tensors="pt")
    if kind == "llava":
        texts = [f"USER: <image>\n{text} ASSISTANT:" for text in TEXTS[:2]]
        processor = AutoProcessor.from_pretrained(folder)
        return processor(text=texts, images=[image, numpy.flipud(image).copy()], padding=True, return_tensors="pt")
    sounds = [draw.normal(size=length).astype(numpy.float32) for length in (9000, 16000)]
    padding = {"padding": True} if kind != "whisper" else {}
    extractor = AutoFeatureExtractor.from_pretrained(folder)
    return extractor(sounds, sampling_rate=16_000, return_tensors="pt", **padding)


@pytest.mark.parametrize("kind", zoo.KINDS)
def test_a_model_loads_whole_and_computes_the_same_after_it_is_saved_again(
    kind: str, made: Made, tmp_path: Path
) -> None:
    import torch

    folder = made(kind)
    model, batch = load(kind, folder), inputs(kind, folder)
    if kind == "whisper":
        batch = {**batch, "decoder_input_ids": torch.tensor([[model.config.decoder_start_token_id]] * 2)}
    model.save_pretrained(tmp_path)
    with torch.no_grad():
        first, second = model(**batch), load(kind, tmp_path)(**batch)
    assert torch.isfinite(first[0]).all()
    torch.testing.assert_close(first[0], second[0], rtol=0, atol=0)


@pytest.mark.parametrize("kind", [*DECODERS, "t5", "bart", "whisper", "llava"])
def test_a_model_that_writes_can_generate(kind: str, made: Made) -> None:
    from transformers import AutoProcessor, AutoTokenizer

    folder = made(kind)
    model = load(kind, folder)
    batch = {name: value for name, value in inputs(kind, folder).items() if name != "decoder_input_ids"}
    written = model.generate(
        **batch, max_new_tokens=5, do_sample=False, pad_token_id=model.generation_config.eos_token_id
    )
    reader = AutoProcessor if kind in ("whisper", "llava") else AutoTokenizer
    texts = reader.from_pretrained(folder).batch_decode(written, skip_special_tokens=True)
    assert [type(text) for text in texts] == [str, str]


@pytest.mark.parametrize("kind", READERS)
def test_a_tokenizer_keeps_its_texts_without_unknown_pieces(kind: str, made: Made) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(made(kind))
    for text in TEXTS:
        ids = tokenizer(text)["input_ids"]
        assert tokenizer.decode(ids, skip_special_tokens=True).split() == text.split()
        assert len(ids) < len(text) / 2
        assert tokenizer.unk_token == "<|endoftext|>" or tokenizer.unk_token_id not in ids


@pytest.mark.parametrize(
    ("kind", "pad", "template", "marked"),
    [
        pytest.param("gpt2", False, False, False, id="gpt2: neither pad token nor chat template"),
        pytest.param("llama", False, True, False, id="llama: no pad token"),
        pytest.param("qwen3", True, True, False, id="qwen3"),
    ],
)
def test_decoders_come_with_the_traps_of_their_families(
    kind: str, pad: bool, template: bool, marked: bool, made: Made
) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(made(kind))
    written = tokenizer.chat_template or ""
    found = (tokenizer.pad_token is not None, bool(written), "generation %}" in written)
    assert found == (pad, template, marked)
    if template:
        turns = [{"role": "user", "content": "one"}, {"role": "assistant", "content": "two"}]
        text = tokenizer.apply_chat_template(turns, tokenize=False)
        assert text.index("one") < text.index("two") < text.index(tokenizer.eos_token, text.index("two"))


def test_whisper_writes_its_language_and_task_first(made: Made) -> None:
    from transformers import AutoProcessor

    tokenizer = AutoProcessor.from_pretrained(made("whisper")).tokenizer
    start = ["<|startoftranscript|>", "<|en|>", "<|transcribe|>", "<|notimestamps|>"]
    ids = tokenizer(TEXTS[1])["input_ids"]
    assert tokenizer.convert_ids_to_tokens(ids[:4]) == start
    assert ids[-1] == tokenizer.eos_token_id
    assert tokenizer.decode(ids, skip_special_tokens=True) == TEXTS[1]


@pytest.mark.parametrize("kind", ["wav2vec2", "wav2vec2-layer-norm"])
def test_wav2vec2_spells_by_letters(kind: str, made: Made) -> None:
    from transformers import AutoProcessor

    processor = AutoProcessor.from_pretrained(made(kind))
    ids = processor.tokenizer(TEXTS[1])["input_ids"]
    assert len(ids) == len(TEXTS[1])
    assert processor.tokenizer.decode(ids, group_tokens=False) == TEXTS[1]
    assert ("attention_mask" in inputs(kind, made(kind))) == (kind == "wav2vec2-layer-norm")


@pytest.mark.parametrize("kind", [kind for kind in zoo.KINDS if kind not in ("resnet", "efficientnet")])
def test_dropout_is_what_was_asked_for(kind: str, tmp_path: Path, made: Made) -> None:
    """In training, two passes over one batch are equal without dropout and differ with it.

    ResNet has none, and EfficientNet only in the head that is put on later.
    """
    import torch

    batch = dict(inputs(kind, made(kind)))
    without, with_ = load(kind, made(kind)), load(kind, zoo.save(kind, tmp_path, TEXTS * 20, dropout=0.3))
    if kind == "whisper":
        batch["decoder_input_ids"] = torch.tensor([[without.config.decoder_start_token_id]] * 2)
    for model, same in ((without, True), (with_, False)):
        model.train()
        with torch.no_grad():
            first, second = model(**batch)[0], model(**batch)[0]
        assert torch.equal(first, second) == same
