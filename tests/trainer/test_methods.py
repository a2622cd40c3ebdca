"""Each method trains what it says, leaves what others load, and is refused early where it cannot work."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from finetune_api.method import Method
from finetune_api.progress import ExitCode
from finetune_api.run import RunConfig
from finetune_trainer.errors import ConfigError
from finetune_trainer.methods.freeze import chosen
from finetune_trainer.methods.limits import check_method, check_positions
from finetune_trainer.methods.usage import usage_of
from finetune_trainer.model_folder import ModelFolder
from finetune_trainer.predict import main as predict
from support import zoo
from support.card_lines import answer_of
from support.methods import built, few, predictions, take_steps, with_method
from support.runs import ARun, WarmTrainer, a_run

if TYPE_CHECKING:
    from torch import nn

    from finetune_trainer.training.run import Run

pytestmark = pytest.mark.torch
STEPS = 2
SMALL: Mapping[str, Any] = {"prompt": {"virtualTokens": 4}, "prefix": {"virtualTokens": 4}, "lora": {"r": 4}}


@dataclass(frozen=True)
class Trained:
    """What a method trains of a case's model: words that are in the name of every such weight, each in one at least."""

    case: str
    method: Mapping[str, Any]
    words: tuple[str, ...]

    @property
    def id(self) -> str:
        return f"{self.method['type']} of {self.case}"


BACKBONE = {"type": "freeze"}
FIRST_LAYER = {"type": "freeze", "freeze": {"layers": "0"}}
TABLE = (
    Trained("text-classification bert", BACKBONE, ("classifier",)),
    Trained("text-classification bert", FIRST_LAYER, ("encoder.layer.1", "pooler", "classifier")),
    Trained("text-classification bert", {"type": "dora"}, ("lora_A", "lora_B", "lora_magnitude_vector", "classifier")),
    Trained(
        "text-classification bert", {"type": "ia3"}, ("key.ia3_l", "value.ia3_l", "output.dense.ia3_l", "classifier")
    ),
    Trained("text-classification bert", {"type": "prompt"}, ("prompt_encoder", "classifier")),
    Trained("text-classification bert", {"type": "prefix"}, ("prompt_encoder", "classifier")),
    Trained("text-classification gpt2", {"type": "prefix"}, ("prompt_encoder", "score")),
    Trained("token-classification distilbert", {"type": "prompt"}, ("prompt_encoder", "classifier")),
    Trained("token-classification bert", {"type": "prefix"}, ("prompt_encoder", "classifier")),
    Trained("question-answering bert", {"type": "prompt"}, ("prompt_encoder", "qa_outputs")),
    Trained("fill-mask bert", {"type": "prompt"}, ("prompt_encoder", "cls.predictions")),
    Trained("fill-mask bert", FIRST_LAYER, ("encoder.layer.1", "cls.predictions")),
    Trained("summarization t5", FIRST_LAYER, ("encoder.block.1", "decoder.block.1", "final_layer_norm")),
    Trained("summarization t5", {"type": "ia3"}, ("k.ia3_l", "v.ia3_l", "wo.ia3_l")),
    Trained("summarization t5", {"type": "prompt"}, ("prompt_encoder",)),
    Trained("summarization t5", {"type": "prefix"}, ("prompt_encoder",)),
    Trained("text-generation gpt2", {"type": "prompt"}, ("prompt_encoder",)),
    Trained("text-generation gpt2", {"type": "ia3"}, ("c_attn.ia3_l", "mlp.c_proj.ia3_l")),
    Trained("text-generation qwen3", {"type": "prefix"}, ("prompt_encoder",)),
    Trained("image-classification-vit", BACKBONE, ("classifier",)),
    Trained("image-classification-vit", {"type": "dora"}, ("lora_A", "lora_B", "lora_magnitude_vector", "classifier")),
    Trained("image-classification-resnet", BACKBONE, ("classifier",)),
    Trained("image-classification-resnet", FIRST_LAYER, ("stages.1", "classifier")),
    Trained("audio-classification-wav2vec2", BACKBONE, ("projector", "classifier")),
    Trained("audio-classification-wav2vec2", {"type": "ia3"}, ("ia3_l", "projector", "classifier")),
)
each_method = pytest.mark.parametrize("trained", [pytest.param(one, id=one.id) for one in TABLE])


def run_of(root: Path, trained: Trained) -> ARun:
    run = few(trained.case).run(root, maxSteps=STEPS, learningRate=1e-2)
    return with_method(run, **{**SMALL, **trained.method})


@each_method
def test_a_method_trains_what_it_says_and_leaves_it(trained: Trained, tmp_path: Path) -> None:
    """Steps change the trained weights and nothing else; what is saved says the same when it is loaded."""
    import torch

    run = built(run_of(tmp_path, trained))
    names = [name for name, parameter in run.model.named_parameters() if parameter.requires_grad]
    assert [name for name in names if not any(word in name for word in trained.words)] == []
    assert [word for word in trained.words if not any(word in name for name in names)] == []
    before = {name: tensor.clone() for name, tensor in run.model.state_dict().items()}
    take_steps(run, STEPS)
    changed = {name for name, tensor in run.model.state_dict().items() if not torch.equal(tensor, before[name])}
    still = {name for name in changed if not any(word in name for word in trained.words)}
    assert changed
    assert still == set()
    examples = [run.test.examples[place] for place in range(len(run.test.rows))]
    ours = predictions(run, run.model, examples)
    loaded = saved_and_loaded(run, tmp_path / "model")
    assert predictions(run, loaded, list(map(plain, examples))) == [nearly(said) for said in ours]


def plain(example: Mapping[str, Any]) -> dict[str, Any]:
    """Without the features that only the run's own model reads."""
    return {name: value for name, value in example.items() if name != "features"}


def nearly(value: Any) -> Any:
    if isinstance(value, float):
        return pytest.approx(value, abs=2e-3, rel=2e-3)
    if isinstance(value, dict):
        return {name: nearly(item) for name, item in value.items()}
    return [nearly(item) for item in value] if isinstance(value, list) else value


def saved_and_loaded(run: Run, folder: Path) -> nn.Module:
    """With the classes of transformers and peft, as the card's lines do."""
    import transformers
    from peft import PeftModel

    from finetune_trainer.methods import METHODS
    from finetune_trainer.methods.virtual_tokens import without_own_places

    METHODS[run.config.method.type](run.config.method).save(run.model, folder, merge_adapter=False)
    auto: Any = getattr(transformers, run.task.auto_classes[0])
    settings = "".join(path.read_text() for path in folder.rglob("*config.json"))
    assert str(folder.parent) not in settings
    if not run.config.method.virtual_tokens:
        return auto.from_pretrained(folder)  # type: ignore[no-any-return]
    return without_own_places(PeftModel.from_pretrained(auto.from_pretrained(folder / "base"), str(folder)))


@pytest.mark.parametrize(
    ("task", "further", "message", "hint"),
    [
        pytest.param(
            "image-classification",
            {"method": {"type": "prompt"}},
            "spec.method.type: prompt puts tokens before those of a text, and image-classification does not read text"
            " alone",
            "use lora, ia3 or freeze",
            id="a prompt for images",
        ),
        pytest.param(
            "text-classification",
            {"method": {"type": "prefix"}, "output": {"mergeAdapter": True}},
            "spec.output.mergeAdapter: virtual tokens cannot be merged into a model's weights",
            "leave it out, or use lora, dora or ia3",
            id="a prefix to be merged",
        ),
        pytest.param(
            "text-generation",
            {"method": {"type": "freeze"}},
            "spec.method.freeze.backbone: text-generation has no head of its own, its model says tokens as it came",
            "set spec.method.freeze.layers, for example 0-3, or use lora",
            id="a backbone that is all there is",
        ),
        pytest.param(
            "text-classification",
            {"method": {"type": "freeze", "freeze": {"layers": "8-0"}}},
            "spec.method.freeze.layers: 8-0 has no layer",
            "write the lower number first: 0-8",
            id="a range the wrong way round",
        ),
        pytest.param(
            "text-classification",
            {"method": {"type": "qlora"}},
            "spec.method.type: weights of four bits need a GPU with CUDA, and this run has none",
            "use lora, or ask for a GPU with spec.resources.gpusPerNode",
            id="four bits without a GPU",
        ),
    ],
)
def test_what_cannot_work_is_refused_before_torch(task: str, further: dict[str, Any], message: str, hint: str) -> None:
    run = a_run(Path("/run"), "./rows.csv", "./model")
    config = RunConfig.model_validate({**run.config, "task": task, **further})
    with pytest.raises(ConfigError) as caught:
        check_method(config, gpus=0)
    assert (caught.value.message, caught.value.hint) == (message, hint)


def test_virtual_tokens_leave_room_for_texts() -> None:
    run = a_run(Path("/run"), "./rows.csv", "./model", maxLength=50)
    config = RunConfig.model_validate({**run.config, "method": {"type": "prompt"}})
    check_positions(config, ModelFolder(Path("/model"), "bert", 70))
    with pytest.raises(ConfigError) as caught:
        check_positions(config, ModelFolder(Path("/model"), "bert", 64))
    assert caught.value.message == "spec.method.prompt.virtualTokens: 20 of the model's 64 positions leave 44"


@pytest.mark.parametrize(
    ("case", "method", "message"),
    [
        pytest.param(
            "text-classification bert",
            {"type": "freeze", "freeze": {"layers": "0-2"}},
            "spec.method.freeze.layers: the model has 2 layers, 0 to 1; there is no 2",
            id="layers that are not there",
        ),
        pytest.param(
            "text-classification gpt2",
            {"type": "prompt"},
            "spec.method.type: a gpt2 model labels a text by its last token, which peft does not find where embeddings"
            " stand before the text",
            id="a prompt before a text that is read from its end",
        ),
        pytest.param(
            "text-classification distilbert",
            {"type": "prefix"},
            "spec.method.type: a distilbert model takes no keys and values from outside",
            id="a prefix for a model without a cache",
        ),
        pytest.param(
            "text-classification bert",
            {"type": "ia3", "ia3": {"targetModules": ["qeury"]}},
            "spec.method.ia3.targetModules: the model has no linear layer 'qeury'",
            id="factors of layers that are not there",
        ),
    ],
)
def test_what_a_model_cannot_do_is_refused_by_name(
    case: str, method: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError) as caught:
        built(with_method(few(case).run(tmp_path), **method))
    assert caught.value.message == message


def test_the_layers_of_a_range() -> None:
    assert [chosen(text) for text in ("0-3", "0,1,5", "0-1,4")] == [{0, 1, 2, 3}, {0, 1, 5}, {0, 1, 4}]


def test_frozen_modules_stay_in_evaluation(tmp_path: Path) -> None:
    """No dropout, and batch norms keep their averages, while the rest is trained."""
    run = built(run_of(tmp_path, Trained("image-classification-resnet", FIRST_LAYER, ())))
    run.model.train()
    modes = {name: module.training for name, module in run.model.named_modules() if "stages." in name}
    assert {mode for name, mode in modes.items() if "stages.0" in name} == {False}
    assert {mode for name, mode in modes.items() if "stages.1" in name} == {True}
    held = {id(module) for name, module in run.model.named_modules() if "stages.0" in name}
    assert run.norms.layers != []
    assert not any(id(layer) in held for layer in run.norms.layers)


def test_a_prompt_begins_as_its_text(tmp_path: Path) -> None:
    import torch
    from transformers import AutoTokenizer

    method = {"type": "prompt", "prompt": {"virtualTokens": 6, "initText": "the courier"}}
    run = with_method(few("text-classification bert").run(tmp_path), **method)
    folder = run.config["model"]["uri"].removeprefix("file://")
    ids = AutoTokenizer.from_pretrained(folder)("the courier", add_special_tokens=False)["input_ids"]
    model: Any = built(run).model
    expected = model.word_embeddings(torch.tensor((ids * 6)[:6]))
    torch.testing.assert_close(model.prompt_encoder["default"].embedding.weight, expected)


@pytest.mark.parametrize("method", ["prompt", "prefix"])
def test_a_model_with_virtual_tokens_writes_alike_in_any_company(method: str, tmp_path: Path) -> None:
    """Beside longer prompts it writes what it writes alone, token by token the likeliest."""
    import torch

    run = built(run_of(tmp_path, Trained("text-generation qwen3", {"type": method}, ())))
    model: Any = run.model.eval()
    model.generation_config.eos_token_id = None
    model.generation_config.max_new_tokens = 4
    task: Any = run.task
    prompts = [[5, 9, 11], [7, 5, 9, 11, 14, 8, 20]]
    written = []
    for prompt in prompts:
        ids = torch.tensor([prompt])
        for _ in range(4):
            with torch.no_grad():
                best = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[:, -1:].argmax(-1)
            ids = torch.cat([ids, best], 1)
        written.append(task.tokenizer.decode(ids[0, len(prompt) :], skip_special_tokens=True))
    assert task.write(model, prompts) == written


@pytest.mark.parametrize(
    ("case", "method"),
    [("text-classification bert", "prefix"), ("summarization t5", "prompt"), ("image-classification-resnet", "freeze")],
)
def test_a_run_resumes_and_predicts(case: str, method: str, trainer: WarmTrainer, tmp_path: Path) -> None:
    """A whole run: its folder answers as its evaluation did, and from a checkpoint it comes to the same bytes."""
    import shutil

    run = with_method(few(case).run(tmp_path, maxSteps=4), type=method, **SMALL).with_("checkpoint", everySteps=2)
    ended = trainer.run(run)
    assert ended.code == ExitCode.DONE, ended.log
    data, output = run.config["dataset"]["train"][0]["uri"], tmp_path / "said.jsonl"
    assert predict([str(run.folder), data, "--output", str(output)]) == ExitCode.DONE
    answers = {line["row"]: line for line in map(json.loads, output.read_text().splitlines())}
    for line in run.lines("predictions.jsonl"):
        said = {name: value for name, value in line.items() if name != "source"}
        assert answers[line["row"]] == nearly(said)
    saved = {path.relative_to(run.folder): path.read_bytes() for path in run.folder.glob("model/**/*.safetensors")}
    shutil.rmtree(run.folder / "model")
    (run.folder / "outcome.json").unlink()
    shutil.rmtree(run.checkpoints / "step-00000004", ignore_errors=True)
    for path in sorted(run.checkpoints.glob("step-*"))[1:]:
        shutil.rmtree(path)
    ended = trainer.run(run)
    assert ended.code == ExitCode.DONE, ended.log
    assert run.read("status.json")["checkpoint"]["resumedFromStep"] == 2
    assert {path: (run.folder / path).read_bytes() for path in saved} == saved


@pytest.mark.parametrize(
    ("task", "auto", "kind"),
    [
        ("token-classification", "AutoModelForTokenClassification", "bert"),
        ("question-answering", "AutoModelForQuestionAnswering", "bert"),
        ("fill-mask", "AutoModelForMaskedLM", "bert"),
        ("summarization", "AutoModelForSeq2SeqLM", "t5"),
    ],
)
def test_the_lines_of_the_card_run(
    task: str, auto: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As they stand, beside the folder `model`."""
    import transformers

    from finetune_trainer.methods.prompt import PromptTuning

    method = {"type": "prompt", "prompt": {"virtualTokens": 4}}
    base = zoo.save(kind, tmp_path / "pretrained", ["a text . who wrote it ? ann wrote it in may ."] * 9)
    model: Any = getattr(transformers, auto).from_pretrained(base)
    tuning = PromptTuning(Method.model_validate(method))
    tuning.save(tuning.prepare(model, []), tmp_path / "model", merge_adapter=False)
    transformers.AutoTokenizer.from_pretrained(base).save_pretrained(tmp_path / "model" / "base")
    run = a_run(tmp_path, "./rows.csv", "./model")
    config = RunConfig.model_validate({**run.config, "task": task, "method": method})
    monkeypatch.chdir(tmp_path)
    assert answer_of(usage_of(config, auto, "unused")) is not None


def test_four_bits_train_where_the_library_can(tmp_path: Path) -> None:
    """qlora on this machine's processor, which bitsandbytes computes on slowly: base in four bits, adapters in 32."""
    import torch
    from transformers import AutoModelForCausalLM

    from finetune_trainer.methods.qlora import Quantized, four_bits

    folder = zoo.save("llama", tmp_path / "llama", ["a text"])
    model = AutoModelForCausalLM.from_pretrained(folder, **four_bits())
    module = Quantized(Method.model_validate({"type": "qlora", "lora": {"r": 4}})).prepare(model, [])
    layer = module.get_submodule("base_model.model.model.layers.0.self_attn.q_proj")
    trained = {name: item.dtype for name, item in module.named_parameters() if item.requires_grad}
    assert type(layer.base_layer).__name__ == "Linear4bit"
    assert all("lora_" in name for name in trained)
    assert set(trained.values()) == {torch.float32}
    ids = torch.tensor([[5, 6, 7]])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        module(input_ids=ids, labels=ids).loss.backward()
    assert layer.lora_B["default"].weight.grad.abs().sum() > 0
