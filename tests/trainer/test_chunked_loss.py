"""Losses of models that say tokens: the same as from all scores, and never all scores at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from finetune_trainer.tasks import writing
from finetune_trainer.tasks.base import Batch, TaskKind
from support import zoo
from support.corpora import text
from support.tasks import open_task, rows_of

if TYPE_CHECKING:
    import torch

pytestmark = pytest.mark.torch
TEXTS = [row["text"] for row in text.plain(200)]
WORDS = 50_000
Folder = Callable[[str], Path]
Gradients = dict[str, "torch.Tensor"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    """A model of the zoo, made once for each kind."""
    return zoo.kept(tmp_path_factory.mktemp("zoo"), TEXTS)


@pytest.fixture(autouse=True)
def few_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """So few scores at once that every batch here has several parts."""
    from finetune_trainer.training import chunked_loss

    monkeypatch.setattr(chunked_loss, "SCORES", {"cpu": 5_000})


@dataclass(frozen=True)
class Case:
    kind: str
    task: str
    training: Mapping[str, Any] = field(default_factory=dict)

    @property
    def id(self) -> str:
        return "-".join([self.task, self.kind, *map(str, self.training.values())])

    def values(self) -> Sequence[Mapping[str, Any]]:
        pairs = list(zip(TEXTS[:4], TEXTS[4:8], strict=True))
        if self.task == "fill-mask":
            return [{"text": one} for one, _ in pairs]
        if self.task == "preference-optimization":
            return [{"prompt": one, "chosen": other, "rejected": one[:9]} for one, other in pairs]
        names = ("prompt", "completion") if self.task == "text-generation" else ("source", "target")
        return [dict(zip(names, pair, strict=True)) for pair in pairs]


CASES = (
    *(Case(kind, "text-generation") for kind in ("gpt2", "llama", "qwen3")),
    *(Case(kind, "summarization") for kind in ("t5", "bart")),
    *(Case(kind, "fill-mask") for kind in ("bert", "roberta", "distilbert")),
    Case("gpt2", "text-generation", {"labelSmoothing": 0.1}),
    Case("bart", "translation", {"labelSmoothing": 0.3}),
    Case("llama", "preference-optimization"),
)


def opened(case: Case, folder: Path) -> tuple[TaskKind, Any, Batch]:
    """The task, its model ready to train, and a batch of rows of several lengths."""
    import torch

    task = open_task(case.task, folder, **case.training)
    examples, _ = task.encode(rows_of(case.values()))
    drawn = [{**example, "draw": number, "reference": (-9.0, -8.0)} for number, example in enumerate(examples)]
    model, _ = task.load_model()
    if hasattr(model, "final_logits_bias"):
        torch.nn.init.normal_(model.final_logits_bias, generator=torch.Generator().manual_seed(1))
    return task, model.train(), task.collate(drawn)


def gradients(task: TaskKind, model: Any, batch: Batch) -> tuple[torch.Tensor, Gradients]:
    """The loss as the trainer computes it, and its gradient by each parameter."""
    from finetune_trainer.training.aiming import outputs_of

    model.zero_grad()
    loss = task.loss(outputs_of(model, batch), batch)
    (0.5 * loss).backward()
    return loss.detach(), {name: own.grad.clone() for name, own in model.named_parameters() if own.grad is not None}


def assert_like_all_scores(task: TaskKind, model: Any, batch: Batch) -> None:
    from torch.testing import assert_close

    from finetune_trainer.training.aiming import aim

    expected = gradients(task, model, batch)
    aim(model, task.token_loss)
    found = gradients(task, model, batch)
    assert_close(found[0], expected[0], rtol=1e-6, atol=1e-5)
    # A key's bias has no gradient but noise, which is as large in either.
    assert_close(found[1], expected[1], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_loss_and_gradient_are_those_of_all_scores(case: Case, folder: Folder) -> None:
    assert_like_all_scores(*opened(case, folder(case.kind)))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_an_evaluation_is_that_of_all_scores(case: Case, folder: Folder) -> None:
    """What each token costs, which one is the likeliest, and the loss."""
    import torch
    from torch.testing import assert_close

    from finetune_trainer.training.aiming import aim, outputs_of

    task, model, batch = opened(case, folder(case.kind))
    model.eval()

    def found() -> tuple[torch.Tensor, ...]:
        outputs = outputs_of(model, batch)
        return writing.surprises(outputs, batch), writing.likeliest(outputs, batch), task.loss(outputs, batch)

    with torch.no_grad():
        expected = found()
        aim(model, task.token_loss)
        assert_close(found(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["gpt2", "bart"])
def test_a_batch_without_any_target_adds_nothing(kind: str, folder: Folder) -> None:
    """Its loss is zero, and it has the gradient zero for each parameter, which other processes wait for."""
    from finetune_trainer.training.aiming import aim

    task, model, batch = opened(Case(kind, "text-generation" if kind == "gpt2" else "summarization"), folder(kind))
    aim(model, task.token_loss)
    loss, found = gradients(task, model, replace(batch, targets=writing.aims([[]], [[]], 1), count=0))
    assert loss == 0.0
    assert found.keys() == {name for name, _ in model.named_parameters()}
    assert not any(gradient.any() for gradient in found.values())


def test_only_the_chosen_way_is_used_where_it_is_right(folder: Folder) -> None:
    """In parts where the model hands its scores on; together where it changes them, or the last layer is adapted."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, Gemma2Config, Gemma2ForCausalLM

    from finetune_trainer.training.aiming import AIM

    task, _, batch = opened(Case("llama", "text-generation"), folder("llama"))

    def load() -> Any:
        return AutoModelForCausalLM.from_pretrained(folder("llama"))

    adapted, on_head = (
        get_peft_model(load(), LoraConfig(task_type="CAUSAL_LM", target_modules=names, init_lora_weights=False))
        for names in (["q_proj"], ["q_proj", "lm_head"])
    )
    torch.manual_seed(0)
    sizes = {"num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16}
    config = Gemma2Config(hidden_size=64, intermediate_size=64, vocab_size=len(task.tokenizer), **sizes)  # type: ignore[attr-defined]
    config.final_logit_softcapping, config.pad_token_id = 0.5, 0
    capped = Gemma2ForCausalLM(config)
    ways = {}
    for name, model in {"lora": adapted, "lora on the head": on_head, "capped": capped}.items():
        assert_like_all_scores(task, model.eval(), batch)
        ways[name] = getattr(model, AIM).chunked
    assert ways == {"lora": True, "lora on the head": False, "capped": False}


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_a_scaled_loss_in_16_bits_keeps_its_gradient(precision: str) -> None:
    """Each token's share of the gradient is too small for 16 bits; with the loss scaled it is not."""
    import torch
    from torch.nn import functional

    from finetune_trainer.training.chunked_loss import summed_loss

    draw = torch.Generator().manual_seed(0)
    hidden, weight = torch.randn(40, 16, generator=draw), torch.randn(3000, 16, generator=draw)
    labels, found = torch.randint(3000, (40,), generator=draw), []
    for way in (summed_loss, lambda *given: functional.cross_entropy(given[0] @ given[1].T, given[3], reduction="sum")):
        leaf = weight.clone().requires_grad_()
        low = getattr(torch, precision) if way is summed_loss else None
        with torch.autocast("cpu", dtype=low or torch.bfloat16, enabled=low is not None):
            loss = way(hidden, leaf, None, labels)
        (1024.0 * loss).backward()  # type: ignore[no-untyped-call]
        found.append(leaf.grad)
    close = torch.nn.functional.cosine_similarity(found[0].flatten(), found[1].flatten(), dim=0)
    assert close > 0.9995


def test_no_tensor_has_scores_for_all_positions() -> None:
    """Forward and backward, with a vocabulary of fifty thousand and half of the positions masked."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode
    from transformers import GPT2Config, GPT2LMHeadModel

    from finetune_trainer.training.aiming import aim, outputs_of

    class Largest(TorchDispatchMode):
        values = 0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = func(*args, **(kwargs or {}))
            if isinstance(result, torch.Tensor):
                self.values = max(self.values, result.numel())
            return result

    rows, width = 4, 64
    model = GPT2LMHeadModel(GPT2Config(vocab_size=WORDS, n_embd=8, n_layer=1, n_head=2, n_positions=width))
    ids = torch.arange(rows * width).reshape(rows, width)
    half = [range(width // 2, width)] * rows
    targets = writing.aims([own[list(places)].tolist() for own, places in zip(ids, half, strict=True)], half, width)
    batch = Batch({"input_ids": ids}, targets, rows * width // 2, rows * width)
    largest = {}
    for name in ("all", "in parts"):
        with Largest() as seen:
            writing.loss(outputs_of(model, batch), batch, 0.0).backward()  # type: ignore[no-untyped-call]
        largest[name] = seen.values
        aim(model, writing.TokenLoss())
    assert largest == {"all": rows * width * WORDS, "in parts": WORDS * 8}


def test_what_the_model_writes_is_as_before(folder: Folder) -> None:
    """Without targets the last layer gives scores as always, also to generation, which keeps keys and values."""
    import torch

    from finetune_trainer.training.aiming import aim

    task, model, batch = opened(Case("gpt2", "text-generation"), folder("gpt2"))
    model.eval()
    ids = batch.inputs["input_ids"][:1, :5]
    with torch.no_grad():
        expected = model.generate(ids, max_new_tokens=5, do_sample=False), model(ids).logits
        aim(model, task.token_loss)
        found = model.generate(ids, max_new_tokens=5, do_sample=False), model(ids).logits
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
