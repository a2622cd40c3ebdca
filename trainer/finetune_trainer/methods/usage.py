"""The Python lines of a run's card that load and use a model which has virtual tokens before a row's own."""

from __future__ import annotations

from finetune_api.job import Task
from finetune_api.method import MethodType
from finetune_api.run import RunConfig
from finetune_trainer.methods.limits import SAYING_TOKENS

LINES = """\
from peft import PeftModel
from transformers import {auto}, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("model/base")
model = PeftModel.from_pretrained({auto}.from_pretrained("model/base"), "model").eval()
inputs = tokenizer({text}, return_tensors="pt")
{answer}"""


def usage_of(config: RunConfig, auto_class: str, usage: str) -> str:
    """`usage`, that of the task, unless the method's tokens have to be put on by peft."""
    if not config.method.virtual_tokens:
        return usage
    text = {
        Task.QUESTION_ANSWERING: '"Who wrote it?", "Ann wrote it in May."',
        Task.FILL_MASK: 'f"A {tokenizer.mask_token} in a text."',
    }.get(config.task, '"A text."')
    return LINES.format(auto=auto_class, text=text, answer=_answer(config))


def _answer(config: RunConfig) -> str:
    if config.task in SAYING_TOKENS - {Task.FILL_MASK}:
        return "tokenizer.decode(model.generate(**inputs)[0], skip_special_tokens=True)"
    by_token = config.task in {Task.TOKEN_CLASSIFICATION, Task.QUESTION_ANSWERING, Task.FILL_MASK}
    # The first results are those of the prompt.
    own = f"[:, {config.method.virtual_tokens} :]" if by_token and config.method.type is MethodType.PROMPT else ""
    if config.task is Task.QUESTION_ANSWERING:
        found = (f"{name} = outputs.{name}_logits{own}.argmax()" for name in ("start", "end"))
        said = 'tokenizer.decode(inputs["input_ids"][0, start : end + 1])'
        return "\n".join(("outputs = model(**inputs)", *found, said))
    return f"model(**inputs).logits{own}"
