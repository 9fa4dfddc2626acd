"""What a recipe says about its sweep and its networks, and how YAML and command line become that."""

import argparse
import dataclasses
import difflib
import itertools
import json
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NoReturn, TypeVar

import yaml
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id
from transformers import HfArgumentParser

from ..data import DataArguments
from ..option_names import ForgivingNames
from ..training.arguments import CollapseTrainingArguments

# A recipe may list several values of these; every combination is a sweep of its own.
GRID_FIELDS = (
    "architecture", "dataset", "train_samples", "loss", "norm_placement", "norm_scale", "l2_coefficient",
    "l2_depth_scaling", "initialization",
)  # fmt: skip
# A sweep's repositories are namespace/sweep-…, and the namespace is not known before they are published.
_SHORTEST_NAMESPACE = "x"
_SECRET = re.compile(r"(.*_)?(token|secret|password|api_key)")


@dataclass(frozen=True)
class SweepArguments:
    """Which networks are trained, and how depth enters.

    Args:
        sweep: the sweep's name: its folder, and the start of its repositories' names.
        architecture: L-RN1, L-RN2, L-T11, L-T12, L-T21 or L-T22.
        depths: numbers of residual blocks, in increasing order. The paper's L is one more for L-RN1 and L-RN2, whose
            classifier it counts.
        seeds: one run for each depth and seed; a seed sets the initial weights and the order of the batches.
        initialization: "scratch", or "continuation" to start each depth from the split of the depth before it.
        learning_rate_depth_exponent: p of the law learning_rate / depth^p, so learning_rate is that of one block. A
            continuation needs 0.5 to 1, training from scratch 0.
        shallowest_max_steps: steps of the shallowest depth in a continuation, which has no parent to start from;
            by the law of max_steps by default.
        max_steps_depth_exponent: q of the law max_steps / depth^q, so max_steps is that of one block; 0 for as many
            steps at every depth. Steps of shallow networks are cheap, and a continuation starts from what they reach.
        paper_panel: panel of the paper's figures that this sweep is to be held against, such as
            figure-1-l-rn1-cifar10; the report shows its range beside the sweep's curve.
    """

    sweep: str
    architecture: str
    depths: list[int]
    seeds: list[int] = field(default_factory=lambda: [0])
    initialization: Literal["scratch", "continuation"] = "scratch"
    learning_rate_depth_exponent: float = 0.0
    shallowest_max_steps: int | None = None
    max_steps_depth_exponent: float = 0.0
    paper_panel: str | None = None

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", self.sweep):
            raise ValueError(f"sweep is {self.sweep!r}; a name has letters, digits, '-', '_' and '.' only")
        for name, least in (("depths", 1), ("seeds", 0)):
            values = getattr(self, name)
            if not values or min(values) < least or len(set(values)) != len(values):
                raise ValueError(f"{name} is {values}; it takes different whole numbers of at least {least}")
        if self.depths != sorted(self.depths):
            raise ValueError(f"depths is {self.depths}; they go from shallow to deep")
        for ending in ("results", f"depth-{self.depths[-1]}"):
            try:
                validate_repo_id(f"{_SHORTEST_NAMESPACE}/{self.sweep}-{ending}")
            except HFValidationError as error:
                reason = str(error).partition(":")[0]
                raise ValueError(f"sweep is {self.sweep!r}; the Hub takes no such name. {reason}") from None
        if self.shallowest_max_steps is not None and self.shallowest_max_steps < 1:
            raise ValueError(f"shallowest_max_steps is {self.shallowest_max_steps}; it must be at least 1")
        if self.max_steps_depth_exponent < 0:
            raise ValueError(f"max_steps_depth_exponent is {self.max_steps_depth_exponent}; it must be at least 0")
        if self.initialization == "continuation":
            for shallow, deep in itertools.pairwise(self.depths):
                if deep > 2 * shallow:
                    raise ValueError(
                        f"depths is {self.depths}; continuation splits each block at most once, so {deep} cannot "
                        f"follow {shallow}: put a depth of at most {2 * shallow} between them"
                    )


@dataclass(frozen=True)
class ModelArguments:
    """The networks and their objective; what is not given has the config's default.

    Args:
        hidden_size: width d.
        norm_placement: "post" for the paper's main text, with LN on the stream, or "pre".
        norm_scale: "sqrt" for features of norm √d, the paper's, "unit" for norm 1.
        hidden_act: activation, ReLU in the theory.
        loss: "cross_entropy" or "mse".
        classifier_bias: give the classifier an unpenalised bias.
        l2_coefficient: λ of the blocks' weights, before depth scaling.
        classifier_l2_coefficient: λ of the classifier's weight; l2_coefficient by default.
        l2_depth_scaling: "constant" for λ, "inverse" for λ over the number of blocks in the blocks alone,
            "inverse_all" in the classifier too.
        num_attention_heads: heads of a transformer.
        is_causal: whether a transformer's positions see only themselves and those before.
        patch_size: side of an image transformer's patches, in pixels.
        pooling: which position of a transformer is classified, the "last" one or the "mean" of all.
    """

    hidden_size: int | None = None
    norm_placement: Literal["post", "pre"] | None = None
    norm_scale: Literal["sqrt", "unit"] | None = None
    hidden_act: str | None = None
    loss: Literal["cross_entropy", "mse"] | None = None
    classifier_bias: bool | None = None
    l2_coefficient: float | None = None
    classifier_l2_coefficient: float | None = None
    l2_depth_scaling: Literal["constant", "inverse", "inverse_all"] | None = None
    num_attention_heads: int | None = None
    is_causal: bool | None = None
    patch_size: int | None = None
    pooling: Literal["last", "mean"] | None = None

    def given(self) -> dict[str, Any]:
        """The fields that the recipe sets."""
        return {name: value for name, value in dataclasses.asdict(self).items() if value is not None}


@dataclass(frozen=True)
class EngineArguments:
    """Where the runs of a sweep are trained; a folder may change it, as nothing here changes what comes out, but for
    the rounding of an ensemble's sums.

    Args:
        engine: "local" for this machine, "ray" for tasks of a Ray cluster, "slurm" for jobs of a SLURM cluster.
        workers: how many runs are trained at once. On this machine one by default, in this process; more are processes
            of their own that share its threads and have a GPU each. On a cluster as many as it has room for by
            default.
        ensemble: train all seeds of a depth at once, in this process, by one forward and backward pass and one
            optimiser step; each is still a run of its own, with its own order of batches and its own checkpoints.
        cpus_per_run: CPU cores of a run on a cluster.
        gpus_per_run: GPUs of a run on a cluster; Ray takes shares, such as 0.25.
        address: the Ray cluster to join, as ray.init takes it, "auto" for the one of this machine; without it one is
            started here.
        partition: of SLURM; the cluster's own choice by default.
        minutes: time limit of a SLURM job; one that reaches it is queued again, and goes on from its checkpoint.
        slurm_options: more of sbatch's options by their long names, such as account=me mem=8G.

    Raises:
        ValueError: a number outside its range, an option of another engine, or two that exclude each other.
    """

    engine: Literal["local", "ray", "slurm"] = "local"
    workers: int | None = None
    ensemble: bool = False
    cpus_per_run: int = 1
    gpus_per_run: float = 0.0
    address: str | None = None
    partition: str | None = None
    minutes: int = 60
    slurm_options: list[str] | None = None

    def __post_init__(self) -> None:
        for name, least in (("workers", 1), ("cpus_per_run", 1), ("gpus_per_run", 0), ("minutes", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"{name} is {value}; it takes at least {least}")
        if self.ensemble and (self.engine != "local" or self.workers not in (None, 1)):
            raise ValueError(
                f"ensemble is True, engine {self.engine!r} and workers {self.workers}; an ensemble trains in this "
                "process: it takes engine 'local' and workers 1"
            )
        for option in self.slurm_options or []:
            if "=" not in option:
                raise ValueError(f"slurm_options has {option!r}; it takes name=value, by sbatch's long names")
        of_engine = {"ray": ("address",), "slurm": ("partition", "slurm_options")}
        for engine, names in of_engine.items():
            for name in names:
                if getattr(self, name) is not None and self.engine != engine:
                    raise ValueError(
                        f"{name} is {getattr(self, name)!r} and engine {self.engine!r}; it takes {engine!r}"
                    )


@dataclass(frozen=True)
class Recipe:
    """One sweep, fully said.

    `training` holds the keyword arguments of [`CollapseTrainingArguments`] that differ from its defaults; each run's
    own folder, seed, learning rate and steps are added to them. `data_content` is the fingerprint of the loaded data,
    once they are.

    Raises:
        ValueError: `training` holds a secret, which would be written and published.
    """

    sweep: SweepArguments
    model: ModelArguments
    data: DataArguments
    training: dict[str, Any]
    data_content: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in filter(is_secret, self.training):
            raise ValueError(
                f"{name} is a secret, and a recipe takes none: it is written to sweep.json and published. Log in with "
                "`hf auth login`, or set HF_TOKEN"
            )

    @property
    def folder(self) -> Path:
        """The sweep's folder, `output_dir`/`sweep`; the only place where a `~` becomes the home folder."""
        return Path(os.path.expanduser(str(self.training["output_dir"]))) / self.sweep.sweep

    def to_dict(self) -> dict[str, dict[str, Any]]:
        """The whole configuration as JSON types, without where it is written."""
        return {
            "sweep": dataclasses.asdict(self.sweep),
            "model": self.model.given(),
            "data": {name: value for name, value in dataclasses.asdict(self.data).items() if value is not None},
            "training": {name: value for name, value in self.training.items() if name != "output_dir"},
        }


def is_secret(name: str) -> bool:
    """Whether an argument of this name, such as `hub_token`, holds what nobody else may read."""
    return _SECRET.fullmatch(name) is not None


_GROUPS = (SweepArguments, ModelArguments, DataArguments, EngineArguments)
Group = TypeVar("Group", SweepArguments, ModelArguments, DataArguments, EngineArguments)


def parse_recipe(
    arguments: list[str],
    *,
    prog: str | None = None,
    description: str | None = None,
    extend: Callable[[argparse.ArgumentParser], object] | None = None,
) -> tuple[list[Recipe], argparse.Namespace]:
    """Turn `--config recipe.yaml --key value ...` into recipes.

    Every YAML key is also a command-line option, which wins. Values are cast to the field's type either way (YAML
    reads 1e-4 as a string), and an unknown key is an error.

    Args:
        arguments: the command line, without the program's name.
        prog, description: for `--help`.
        extend: called with the parser to add options that are not the recipe's.

    Returns:
        The recipes, one for each combination of the `GRID_FIELDS` that hold several values, and the namespace with the
        [`EngineArguments`], which are no part of them, and the options that `extend` added.

    Raises:
        ValueError: a key or value that the recipe does not take.
        OSError: the file cannot be read.
    """
    parser = _parser(prog, description)
    known = {action.dest for action in parser._actions} - {"help"}
    if extend is not None:
        extend(parser)
    config_parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    config_parser.add_argument("--config", metavar="FILE", help="YAML recipe; its keys are the options below")
    config, rest = config_parser.parse_known_args(arguments)
    from_file = _as_options(_read_yaml(config.config), known, config.config) if config.config else []
    options = parser.parse_args([*from_file, *rest])
    values = vars(options)
    # Parsed too, because argparse casts the defaults that are strings.
    defaults = vars(parser.parse_args(["--sweep=any", "--architecture=any", "--depths=1", "--dataset=any"]))
    listed = {name: values[name] for name in GRID_FIELDS if isinstance(values[name], list)}
    recipes = []
    for combination in itertools.product(*listed.values()):
        chosen = dict(zip(listed, combination, strict=True))
        varied = [str(value).split("/")[-1] for name, value in chosen.items() if len(listed[name]) > 1]
        name = "-".join([values["sweep"], *(re.sub(r"[^A-Za-z0-9.]+", "-", part).lower() for part in varied)])
        recipes.append(_recipe({**values, **chosen, "sweep": name}, defaults))
    return recipes, options


def parse_engine(options: argparse.Namespace) -> EngineArguments:
    """Return the engine's arguments out of what [`parse_recipe`] returned beside the recipes.

    Raises:
        ValueError: a value that the engine does not take.
    """
    return _group(EngineArguments, vars(options))


def _group(kind: type[Group], values: dict[str, Any]) -> Group:
    return kind(**{f.name: values[f.name] for f in dataclasses.fields(kind) if f.init})


def _recipe(values: dict[str, Any], defaults: dict[str, Any]) -> Recipe:
    groups = _group(SweepArguments, values), _group(ModelArguments, values), _group(DataArguments, values)
    training: dict[str, Any] = {}
    for training_field in dataclasses.fields(CollapseTrainingArguments):
        value = values.get(training_field.name)
        if training_field.init and value is not None and value != defaults[training_field.name]:
            training[training_field.name] = value
    training["output_dir"] = values["output_dir"] or "runs"
    for name in ("seed", "run_name", "resume_from_checkpoint", "push_to_hub"):
        if name in training:
            raise ValueError(f"{name} is {training[name]!r}; a sweep sets it for each run, so a recipe does not")
    # Built once here so that a mistake shows before any data is loaded.
    CollapseTrainingArguments(**{**training, "report_to": "none"})
    return Recipe(*groups, training)


class _Help(argparse.RawDescriptionHelpFormatter, argparse.ArgumentDefaultsHelpFormatter):
    """Keep the description's lines and show the defaults."""


class _RecipeParser(ForgivingNames, HfArgumentParser):
    """Raises a mistake instead of printing two hundred lines of usage before it."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(message)


def _parser(prog: str | None, description: str | None) -> HfArgumentParser:
    parser = _RecipeParser(
        (*_GROUPS, CollapseTrainingArguments),  # type: ignore[arg-type]  # transformers calls dataclasses a type of its own
        prog=prog,
        usage="%(prog)s --config FILE [--key value ...]",
        description=description,
        formatter_class=_Help,
        allow_abbrev=False,
    )
    helps = {}
    for group in _GROUPS:
        helps.update(_documented_fields(group))
    for action in parser._actions:
        if action.dest in helps:
            action.help = helps[action.dest].replace("%", "%%")
        if action.dest in GRID_FIELDS:
            action.nargs = "+"
    return parser


def _documented_fields(group: type) -> dict[str, str]:
    """The text of every argument in a class's docstring, so that `--help` and the documentation are one text."""
    body = (group.__doc__ or "").partition("Args:")[2].partition("Raises:")[0]
    entries = re.findall(r"^ {8}(\w[\w, ]*): (.*(?:\n {12}.*)*)", body, flags=re.MULTILINE)
    return {name: " ".join(text.split()) for names, text in entries for name in names.split(", ")}


def _read_yaml(path: str) -> dict[str, Any]:
    try:
        text = Path(path).read_text(encoding="utf-8")
        content = yaml.safe_load(text)
        alias = next((event for event in yaml.parse(text) if isinstance(event, yaml.AliasEvent)), None)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"config {path} is not valid YAML in UTF-8: {error}") from None
    if alias:  # a few lines of them stand for more values than any memory holds
        raise ValueError(f"config {path} has the alias *{alias.anchor}; a recipe's values are written out")
    if not isinstance(content, dict):
        raise ValueError(f"config {path} holds a {type(content).__name__}; it takes keys with values")
    return content


def _as_options(content: dict[str, Any], known: set[str], path: str) -> list[str]:
    """YAML keys as command-line options, so that argparse casts and checks both alike."""
    options = []
    for key, value in content.items():
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else "; --help lists the keys"
            raise ValueError(f"config {path} has an unknown key {key!r}{hint}")
        if value is None:
            continue
        values = value if isinstance(value, list) else [json.dumps(value) if isinstance(value, dict) else value]
        options += [f"--{key}", *(str(item) for item in values)]
    return options
