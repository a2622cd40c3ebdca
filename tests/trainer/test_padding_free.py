"""Computed one behind the other, texts get what each gets alone, and draw what their cell draws."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from finetune_trainer.errors import ConfigError
from finetune_trainer.training.padding import STACKS
from support.methods import built, with_method
from support.runs import ARun, a_run

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from finetune_trainer.training.run import Run

pytestmark = pytest.mark.torch
WORDS = 100
LENGTHS = (9, 9, 7, 3, 12, 1, 20, 5)
WRITTEN = (4, 11, 2, 1, 7, 3, 6, 9)
"""Lengths of what a decoder reads beside them."""
SIDES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
READER = SIDES | {"vocab_size": WORDS, "max_position_embeddings": 40, "initializer_range": 0.2}
BOTH = {"d_model": 32, "vocab_size": WORDS, "max_position_embeddings": 40, "init_std": 0.2} | {
    f"{side}_{name}": value
    for side in ("encoder", "decoder")
    for name, value in {"layers": 2, "attention_heads": 4, "ffn_dim": 64}.items()
}
RELATIVE = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4, "vocab_size": WORDS}
TOKENS = {"pad_token_id": 1, "bos_token_id": 2, "eos_token_id": 3, "decoder_start_token_id": 3}
SIZES: Mapping[str, Mapping[str, Any]] = {
    **dict.fromkeys(("bert", "camembert", "roberta", "xlm-roberta"), READER),
    "electra": READER | {"embedding_size": 16},
    "distilbert": {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64, "initializer_range": 0.2}
    | {"vocab_size": WORDS, "max_position_embeddings": 40},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 40, "vocab_size": WORDS, "initializer_range": 0.2},
    **dict.fromkeys(("llama", "qwen2"), READER | {"num_key_value_heads": 2}),
    "qwen3": READER | {"num_key_value_heads": 2, "head_dim": 8},
    **dict.fromkeys(("bart", "mbart"), BOTH),
    **dict.fromkeys(("t5", "mt5"), RELATIVE),
}
KINDS = sorted(STACKS)
States = list["torch.Tensor"]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Models are so small that threads would only wait for each other."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def a_model(kind: str, dropout: float = 0.0) -> PreTrainedModel:
    import torch
    from transformers import AutoConfig, AutoModel

    from finetune_trainer.tasks.pretrained import set_dropout

    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **SIZES[kind], **TOKENS)
    set_dropout(config, dropout)
    model: PreTrainedModel = AutoModel.from_config(config, dtype=torch.float32).train()  # type: ignore[no-untyped-call]
    return model


def without_padding(model: PreTrainedModel) -> PreTrainedModel:
    from finetune_trainer.training.padding_free import remove_padding

    own = copy.deepcopy(model)
    remove_padding(own)
    return own


def inputs(model: PreTrainedModel, rows: Sequence[int]) -> dict[str, torch.Tensor]:
    """Texts by their numbers, padded to the longest of them."""
    import torch

    def side(lengths: Sequence[int], seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        draw = torch.Generator().manual_seed(seed)
        every = torch.randint(5, WORDS, (len(lengths), max(lengths)), generator=draw)
        own = torch.tensor([lengths[row] for row in rows])
        mask = torch.arange(int(own.max())) < own[:, None]
        return every[list(rows), : mask.shape[1]].masked_fill(~mask, 1), mask.long()

    tokens, mask = side(LENGTHS, 1)
    found = {"input_ids": tokens, "attention_mask": mask}
    if model.config.is_encoder_decoder:
        found["decoder_input_ids"], found["decoder_attention_mask"] = side(WRITTEN, 2)
    return found


def states_of(model: PreTrainedModel, rows: Sequence[int]) -> States:
    """What a model says of each token of each text; and of each text as a whole, where it does."""
    outputs = model(**inputs(model, rows))
    lengths = WRITTEN if model.config.is_encoder_decoder else LENGTHS
    states = [outputs.last_hidden_state[place, : lengths[row]] for place, row in enumerate(rows)]
    pooled = outputs.get("pooler_output")
    return states if pooled is None else [*states, *pooled[:, None]]


def by_weight(states: States) -> torch.Tensor:
    """A number that depends on every state, each in its own way."""
    import torch

    total = torch.zeros(())
    for own in states:
        draw = torch.Generator().manual_seed(own.shape[0])
        total = total + (own * torch.randn(own.shape, generator=draw)).sum()
    return total


def gradients(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    return {name: item.grad for name, item in model.named_parameters() if item.grad is not None}


def assert_close(ours: Any, theirs: Any, tolerance: float = 1e-5) -> None:
    import torch

    torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("drawing", [False, True], ids=["torch's attention", "attention by cells"])
@pytest.mark.parametrize("kind", KINDS)
def test_together_as_alone(kind: str, drawing: bool) -> None:
    """A batch of mixed lengths has the states, and the gradient, of its texts one by one."""
    from finetune_trainer.training.draws import Cell, Draws

    # A probability that is rounded to zero has the attention computed as with dropout, and drops nothing.
    model = a_model(kind, dropout=1e-7 if drawing else 0.0)
    ours, rows = without_padding(model), range(len(LENGTHS))
    model.eval()  # type: ignore[no-untyped-call]
    alone = [states_of(model, [row]) for row in rows]
    theirs = [own[part] for part in range(len(alone[0])) for own in alone]
    by_weight(theirs).backward()  # type: ignore[no-untyped-call]
    with Draws([Cell(1, 5), Cell(2, 3)]) if drawing else nullcontext():
        states = states_of(ours, rows)
        by_weight(states).backward()  # type: ignore[no-untyped-call]
    assert_close(states, theirs)
    found = gradients(model)
    assert_close(gradients(ours), found, 1e-4)
    assert any(float(item.abs().max()) > 0.1 for item in found.values())


@pytest.mark.parametrize("kind", KINDS)
def test_draws_by_cells(kind: str) -> None:
    """With dropout a cell's texts get the same beside others as without them, and other numbers than they."""
    import torch

    from finetune_trainer.training.draws import Cell, Draws

    model = without_padding(a_model(kind, dropout=0.3))
    cells = {Cell(11, 5): range(5), Cell(12, 3): range(5, 8)}

    def drawn(*chosen: Cell) -> States:
        torch.manual_seed(7)
        with Draws(chosen), torch.no_grad():
            rows = [row for cell in chosen for row in cells[cell]]
            return states_of(model, rows)[: len(rows)]

    first, second = cells
    assert_close(drawn(first, second), [*drawn(first), *drawn(second)])
    other = Cell(13, 5)
    cells[other] = cells[first]
    assert not all(map(torch.equal, drawn(first), drawn(other)))


@pytest.mark.parametrize("kind", ["bert", "gpt2", "t5", "bart"])
def test_computed_again(kind: str) -> None:
    """Activations that are computed twice draw the same numbers both times: the gradient is the same."""
    import torch

    from finetune_trainer.training.draws import Cell, Draws

    model = a_model(kind, dropout=0.3)
    found = []
    for again in (False, True):
        own = without_padding(model)
        if again:
            own.gradient_checkpointing_enable({"use_reentrant": False})  # type: ignore[no-untyped-call]
        torch.manual_seed(7)
        with Draws([Cell(1, 5), Cell(2, 3)]):
            by_weight(states_of(own, range(8))).backward()  # type: ignore[no-untyped-call]
        found.append(gradients(own))
    assert_close(found[1], found[0])


@pytest.mark.parametrize("kind", ["bert", "gpt2", "t5", "bart"])
def test_masks_matter(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without its mask attention would see padding, or what comes later: the tests above would fail."""
    from finetune_trainer.training.padding_free.pattern import Pattern

    model = a_model(kind).eval()  # type: ignore[no-untyped-call]
    ours = without_padding(model).eval()  # type: ignore[no-untyped-call]
    monkeypatch.setattr(Pattern, "mask", lambda *_: None)
    theirs = [states_of(model, [row])[0] for row in range(8)]
    states = states_of(ours, range(8))
    differences = [float((one - other).abs().max()) for one, other in zip(states, theirs, strict=False)]
    assert max(differences) > 1e-2


def test_groups_cost_least() -> None:
    """Texts of about one length are computed together; a few short ones do not get a group of their own."""
    from finetune_trainer.training.padding_free.pattern import Group, grouped

    lengths = [500, 498, 120, 115, 110, 6, 5, 4]
    assert grouped(lengths, lengths, 0, 8) == [Group(0, 2, 500, 500), Group(2, 5, 120, 120), Group(5, 8, 6, 6)]
    short = [12, 11, 9, 3]
    assert grouped(short, short, 0, 4) == [Group(0, 4, 12, 12)]


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_shares_of_dropout(share: float) -> None:
    """The share that is dropped is the one that was asked for, and what stays makes up for it."""
    import torch

    from finetune_trainer.training.draws import Cell, Draws

    torch.manual_seed(0)
    with Draws([Cell(1, 300), Cell(2, 213)]):
        dropped = torch.nn.functional.dropout(torch.ones(513, 1001), share)
    assert abs(float((dropped == 0).float().mean()) - share) < 0.002
    assert abs(float(dropped.mean()) - 1) < 0.005


METHODS: Mapping[str, Mapping[str, Any]] = {
    "full": {"type": "full"},
    "lora": {"type": "lora"},
    "dora": {"type": "dora"},
    "ia3": {"type": "ia3"},
}


@pytest.mark.parametrize("method", METHODS)
def test_predictions_as_padded(method: str, rows: Path, models: Callable[[str], Path], tmp_path: Path) -> None:
    """What a run's model says of rows together is what a padding one says of each alone, with adapters as well."""
    import torch

    run = with_method(a_run(tmp_path, rows.as_uri(), models("roberta").as_uri()), **METHODS[method])
    found = built(run)
    assert found.choices.padding_free
    examples = [found.validation.examples[place] for place in range(12)]
    alone = torch.cat([_logits(found, [example]) for example in examples])
    assert_close(_logits(found, examples), alone)


def _logits(run: Run, examples: Sequence[Any]) -> torch.Tensor:
    import torch

    with torch.no_grad():
        outputs = run.model.eval()(**run.task.collate(examples).inputs)
    logits: torch.Tensor = outputs.logits
    return logits


def test_the_whole_step_at_once(rows: Path, models: Callable[[str], Path], tmp_path: Path) -> None:
    """A step's cells are those of a padded run; all are computed at once, but for a microBatchSize."""
    from finetune_trainer.training.feeding import next_batches

    def texts(**training: Any) -> list[int]:
        run = a_run(
            tmp_path / str(len(training)), rows.as_uri(), models("bert").as_uri(), trainBatchSize=20, **training
        )
        return [len(part.batch.inputs["input_ids"]) for part in next_batches(built(run))]

    assert texts() == [20]
    assert texts(microBatchSize=8) == [8, 8, 4]
    assert texts(paddingFree="Never", gradientCheckpointing="Never") == [8, 8, 4]


REFUSED: Mapping[str, tuple[str, dict[str, Any], str]] = {
    "a picture": ("images", {}, "image-classification does not read text alone"),
    "virtual tokens": ("texts", {"type": "prompt", "prompt": {"virtualTokens": 4}}, "prompt puts tokens before"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str, rows: Path, models: Callable[[str], Path], tmp_path: Path) -> None:
    """Always says, before torch is imported, where texts have to be padded; Auto pads them."""
    from finetune_api.run import RunConfig
    from finetune_trainer.model_folder import ModelFolder
    from finetune_trainer.training.padding import check_padding, obstacle

    what, method, why = REFUSED[name]
    run = with_method(a_run(tmp_path, rows.as_uri(), models("bert").as_uri(), paddingFree="Always"), **method)
    if what == "images":
        run = ARun(run.root, {**run.config, "task": "image-classification"})
    config = RunConfig.model_validate(run.config)
    folder = ModelFolder(models("bert"), "bert")
    with pytest.raises(ConfigError, match=f"spec.training.paddingFree: Always is not possible: {why}") as caught:
        check_padding(config, folder)
    assert caught.value.reason == "NotSupported"
    assert obstacle(config, folder) is not None


def test_unknown_architectures_are_named(rows: Path, models: Callable[[str], Path], tmp_path: Path) -> None:
    from finetune_api.run import RunConfig
    from finetune_trainer.model_folder import ModelFolder
    from finetune_trainer.training.padding import check_padding

    run = a_run(tmp_path, rows.as_uri(), models("bert").as_uri(), paddingFree="Always")
    with pytest.raises(ConfigError, match="of a mamba model it is not known how; it is of bart, bert"):
        check_padding(RunConfig.model_validate(run.config), ModelFolder(models("bert"), "mamba"))
