"""Manifests that `finetune check` and a real API server must judge alike: YAML spellings, bounds, rules across fields.

Every text is a whole spec; `accepted` says what both have to answer.
"""

from __future__ import annotations

from dataclasses import dataclass

HEAD = "apiVersion: finetune.dev/v1alpha1\nkind: FineTuneJob\nmetadata: {{name: {name}}}\nspec:\n"
REQUIRED = """\
  task: text-classification
  model: {uri: pkg://encoder/model}
  dataset: {train: [{uri: pkg://data/rows.csv}]}
"""
ENCODERS = "{text: {uri: pkg://m/m}, image: {uri: pkg://n/n}}"


@dataclass(frozen=True)
class Case:
    """One manifest, what is special about it, and whether it is a valid one."""

    title: str
    accepted: bool
    spec: str = ""
    name: str = "reviews"
    required: str = REQUIRED

    @property
    def text(self) -> str:
        return HEAD.format(name=self.name) + self.required + self.spec


def dataset(field: str) -> str:
    """What is required, with a further field of the data."""
    return REQUIRED.replace("{train:", "{" + field + ", train:")


CASES = (
    Case("only what is required", True),
    Case("an exponent without a dot is a number", True, "  training: {learningRate: 1e-4}\n"),
    Case("an exponent with a dot", True, "  training: {learningRate: 1.0e-4}\n"),
    Case("a quoted number is no number", False, "  training: {learningRate: '1e-4'}\n"),
    Case("yes is true", True, "  output: {exact: yes}\n"),
    Case("a quoted true is no boolean", False, "  output: {exact: 'true'}\n"),
    Case(
        "null is absent, in every section",
        True,
        "  training: {seed: null, maxSteps: ~}\n  method:\n  runPolicy: null\n",
    ),
    Case("null for an enum", True, "  training: {precision: null}\n  evaluation: {strategy: ~}\n"),
    Case("null for a field of a rule", True, "  training: {warmupSteps: null, warmupRatio: 0.1}\n"),
    Case("a number for a quantity", True, "  resources: {cpu: 4, memory: 16Gi}\n"),
    Case("a fraction for a quantity", True, "  resources: {cpu: '0.5'}\n"),
    Case("a word for a quantity", False, "  resources: {memory: lots}\n"),
    Case("an octal number", True, "  training: {trainBatchSize: 0o20}\n"),
    Case("a fraction where a whole number belongs", False, "  training: {trainBatchSize: 1.5}\n"),
    Case("processes as a number", True, "  resources: {processesPerNode: 2}\n"),
    Case("processes as auto", True, "  resources: {processesPerNode: auto}\n"),
    Case("processes as another word", False, "  resources: {processesPerNode: many}\n"),
    Case("no processes", False, "  resources: {processesPerNode: 0}\n"),
    Case("a batch of none", False, "  training: {trainBatchSize: 0}\n"),
    Case("a learning rate of none", False, "  training: {learningRate: 0}\n"),
    Case(
        "a share of everything", False, "  dataset: {train: [{uri: pkg://d/r.csv}], test: {fraction: 1}}\n", required=""
    ),
    Case("no task", False, required="  model: {uri: pkg://m/m}\n  dataset: {train: [{uri: pkg://d/r.csv}]}\n"),
    Case("a task that is not there", False, required=REQUIRED.replace("text-classification", "text-clasification")),
    Case("an unknown scheme", False, required=REQUIRED.replace("pkg://encoder", "ftp://encoder")),
    Case("a model in a bucket", True, required=REQUIRED.replace("pkg://encoder", "s3://encoder")),
    Case(
        "a model and encoders", False, required=REQUIRED.replace("{uri: pkg", "{encoders: " + ENCODERS + ", uri: pkg")
    ),
    Case("neither a model nor encoders", False, required=REQUIRED.replace("uri: pkg://encoder/model", "revision: a")),
    Case("encoders", True, required=REQUIRED.replace("uri: pkg://encoder/model", "encoders: " + ENCODERS)),
    Case(
        "a single encoder",
        False,
        required=REQUIRED.replace("uri: pkg://encoder/model", "encoders: {text: {uri: pkg://m/m}, image: null}"),
    ),
    Case("a weight", True, required=REQUIRED.replace("rows.csv", "rows.csv, weight: 0.5")),
    Case("no weight", False, required=REQUIRED.replace("rows.csv", "rows.csv, weight: 0")),
    Case("several labels", True, required=REQUIRED.replace("{train:", "{problemType: MultiLabel, train:")),
    Case(
        "groups to split by",
        True,
        required=REQUIRED.replace("{train:", "{test: {fraction: 0.2, groupBy: user}, train:"),
    ),
    Case(
        "groups and times",
        False,
        required=REQUIRED.replace("{train:", "{test: {fraction: 0.2, groupBy: user, timeColumn: at}, train:"),
    ),
    Case(
        "groups of rows that are given",
        False,
        required=REQUIRED.replace("{train:", "{test: {sources: [{uri: pkg://d/t.csv}], groupBy: user}, train:"),
    ),
    Case(
        "cleaning and duplicates",
        True,
        required=REQUIRED.replace("{train:", "{clean: {normalizeUnicode: None}, dedup: {method: None}, train:"),
    ),
    Case("cleaning turned off", False, required=REQUIRED.replace("{train:", "{clean: {normalizeUnicode: off}, train:")),
    Case("no length fits", False, required=REQUIRED.replace("{train:", "{clean: {minChars: 9, maxChars: 3}, train:")),
    Case(
        "no clip fits",
        False,
        required=REQUIRED.replace("{train:", "{clean: {audio: {minSeconds: 9, maxSeconds: 3}}, train:"),
    ),
    Case("a few rows of each class", True, "  method: {shots: 8}\n"),
    Case("words that change", True, required=dataset("augment: {text: {wordDropout: 0.1, synonyms: []}, image: null}")),
    Case("all words left out", False, required=dataset("augment: {text: {wordDropout: 1}}")),
    Case("bounds in order", True, required=dataset("augment: {audio: {speed: {minRate: 1, maxRate: 1}}}")),
    Case("bounds the wrong way round", False, required=dataset("augment: {audio: {speed: {minRate: 1.2}}}")),
    Case(
        "a crop the wrong way round",
        False,
        required=dataset("augment: {image: {crop: {minScale: 0.9, maxScale: 0.5}}}"),
    ),
    Case("classes that count alike", True, required=dataset("balance: {classWeights: Balanced, weights: null}")),
    Case(
        "weights of one's own",
        True,
        required=dataset("balance: {classWeights: Custom, weights: [{label: a, weight: 2}]}"),
    ),
    Case("no weights of one's own", False, required=dataset("balance: {classWeights: Custom}")),
    Case("weights that nobody reads", False, required=dataset("balance: {weights: [{label: a, weight: 2}]}")),
    Case("no training rows", False, required=REQUIRED.replace("[{uri: pkg://data/rows.csv}]", "[]")),
    Case("warm-up said twice", False, "  training: {warmupSteps: 5, warmupRatio: 0.1}\n"),
    Case("steps without the strategy", False, "  evaluation: {steps: 5}\n"),
    Case("the strategy without steps", False, "  evaluation: {strategy: Steps}\n"),
    Case("strategy and steps", True, "  evaluation: {strategy: Steps, steps: 5}\n"),
    Case("a variable of the operator", False, "  trainer: {env: [{name: MASTER_ADDR, value: x}]}\n"),
    Case("a variable of the user", True, "  trainer: {env: [{name: TOKENIZERS_PARALLELISM, value: 'false'}]}\n"),
    Case("an output that is no volume", False, "  output: {uri: file:///models}\n"),
    Case(
        "a pod template",
        True,
        "  podTemplate: {spec: {nodeSelector: {disk: ssd}, tolerations: [{operator: Exists}]}}\n",
    ),
    Case("an unknown field", False, "  trainnig: {seed: 1}\n"),
    Case("an unknown field deep inside", False, "  training: {sead: 1}\n"),
    Case("a name as long as can be", True, name="a" * 36),
    Case("a name too long for its pods", False, name="a" * 37),
    Case("a name that begins with a digit", False, name="1a"),
    Case("a LoRA job", True, "  method: {type: lora, lora: {r: 8, targetModules: [query, value]}}\n"),
    Case("frozen layers", True, "  method: {type: freeze, freeze: {layers: 0-8}}\n"),
    Case("one frozen layer, a number", True, "  method: {type: freeze, freeze: {layers: 3}}\n"),
    Case("frozen layers that are none", False, "  method: {type: freeze, freeze: {layers: first}}\n"),
    Case("a frozen backbone and frozen layers", False, "  method: {freeze: {backbone: true, layers: 0-8}}\n"),
    Case("nothing that is frozen", False, "  method: {type: freeze, freeze: {backbone: false}}\n"),
    Case("a prompt", True, "  method: {type: prompt, prompt: {virtualTokens: 8, initText: 'Is it good?'}}\n"),
    Case("a method that is not there", False, "  method: {type: lorra}\n"),
    Case("a gate", True, "  evaluation: {gate: [{metric: test_f1_macro, min: 0.9}, {metric: test_loss, max: 1}]}\n"),
    Case("a gate without a bound", False, "  evaluation: {gate: [{metric: test_f1_macro}]}\n"),
    Case("a gate that nothing passes", False, "  evaluation: {gate: [{metric: test_loss, min: 2, max: 1}]}\n"),
    Case("TensorBoard", True, "  tracking: [{type: tensorboard}]\n"),
    Case("MLflow", True, "  tracking: [{type: mlflow, uri: 'http://mlflow:5000', experiment: a}]\n"),
    Case("MLflow without a server", False, "  tracking: [{type: mlflow}]\n"),
    Case("MLflow in a file", False, "  tracking: [{type: mlflow, uri: 'sqlite:///a.db'}]\n"),
    Case("a password in an address", False, "  tracking: [{type: mlflow, uri: 'https://me:secret@mlflow'}]\n"),
    Case("W&B", True, "  tracking: [{type: wandb, project: a, mode: offline, secretRef: {name: key}}]\n"),
    Case("W&B without a project", False, "  tracking: [{type: wandb}]\n"),
    Case("a field of another tracker", False, "  tracking: [{type: tensorboard, project: a}]\n"),
    Case("no such tracker", False, "  tracking: [{type: neptune}]\n"),
)
