"""Students: the paper's presets, sizes of one's own, any config or checkpoint; and how they start."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, cast

import torch
from torch import Tensor, nn
from transformers import AutoModel, ElectraConfig, PretrainedConfig
from transformers.pytorch_utils import Conv1D

from tutorkd.errors import UserError
from tutorkd.hub import load_config, load_model
from tutorkd.importance import Importance, watching
from tutorkd.kinds import check_one_stack, kind_of_config
from tutorkd.objective import CAUSAL, MASKED, Objective
from tutorkd.reader import Head, Reader
from tutorkd.refit import refitting
from tutorkd.sharding import layer_stack, whole
from tutorkd.sizes import layer_of, stack_of
from tutorkd.slices import Slices

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from tutorkd.spelling import Spelling

# The paper's extremely small students: factorised embeddings, which is ELECTRA's embedding layer.
EXTREME_LAYERS = {"extreme-12": 12, "extreme-6": 6, "extreme-2": 2}
EXTREME_SIZES: dict[str, Any] = {
    "hidden_size": 264,
    "num_attention_heads": 12,
    "intermediate_size": 1056,
    "embedding_size": 132,
}
PRESETS = ("thin", "half", *EXTREME_LAYERS)
# The number of neurons of a feed-forward network, by the names that families have for it.
_NEURONS = ("intermediate_size", "n_inner", "ffn_dim", "ffn_hidden_size", "hidden_dim")

_MOST = "those that matter most on the text"

Start = Literal["auto", "teacher", "random"]
# Options that say a student's sizes, and what transformers' configurations call these.
SIZES = {
    "student_layers": "num_hidden_layers",
    "student_hidden_size": "hidden_size",
    "student_heads": "num_attention_heads",
    "student_intermediate_size": "intermediate_size",
    "student_embedding_size": "embedding_size",
}


def sizes_of(options: Any) -> dict[str, int]:
    """The sizes that a command's options ask for, by the names of transformers' configurations."""
    asked = {size: getattr(options, option, None) for option, size in SIZES.items()}
    return {size: number for size, number in asked.items() if number is not None}


class Started(NamedTuple):
    """A student as its training finds it."""

    student: PreTrainedModel
    told: str  # how it starts, in words
    # Whether of slices of its teacher, which the text that it learns from may choose better.
    sliced: bool = False


@dataclass(frozen=True)
class Initialisation:
    """What a student took over from the teacher."""

    tensors: int
    sliced: int  # of these, as slices of larger ones
    total: int
    layers: list[int]  # for each of the student's layers the teacher's, counted from 1; empty if none fits
    respelled: bool = False  # whether embeddings are means of the teacher's
    chosen: str = "evenly spaced"  # which slices, in words

    def __str__(self) -> str:
        if not self.tensors:
            return "nothing of the teacher's fits; it starts at random"
        layers = f", its layers from the teacher's {', '.join(map(str, self.layers))}" if self.layers else ""
        sliced = f", {self.sliced} of them as slices, {self.chosen}" if self.sliced else ""
        means = ", its embeddings means of those of the teacher's tokens" if self.respelled else ""
        return f"{self.tensors} of {self.total} tensors copied from the teacher{sliced}{layers}{means}"

    @property
    def ahead_of_text(self) -> str:
        """The same in words, before a text has been read that chooses the slices."""
        return str(replace(self, chosen=f"{_MOST}, if that can be told") if self.sliced else self)


def student_config(
    name: str,
    teacher: PretrainedConfig,
    sizes: Mapping[str, int] | None = None,
    trust_remote_code: bool = False,
    objective: Objective = MASKED,
) -> PretrainedConfig:
    """Configuration of a student by preset, Hub name or path.

    Args:
        name: "thin" (the teacher's own family and sizes, with so few neurons in its feed-forward networks that its
            layers have half of the parameters), "half" (the same with all neurons, at half the depth), "extreme-12",
            "extreme-6", "extreme-2" (ELECTRA models with the paper's sizes and the teacher's vocabulary), a Hub name,
            or a path.
        teacher: the teacher's configuration.
        sizes: overrides, by the names of transformers' configurations, such as ``num_hidden_layers``.
        objective: what teacher and student are for.

    Raises:
        UserError: if there is no such student, the teacher's depth is odd, or the family has no such size.
    """
    sizes = sizes or {}
    if name == "thin":
        config = type(teacher).from_dict(teacher.to_dict())
        if "intermediate_size" not in sizes:
            _set_half_of_neurons(config, trust_remote_code)
    elif name == "half":
        if teacher.num_hidden_layers % 2 and "num_hidden_layers" not in sizes:
            raise UserError(f"half of {teacher.num_hidden_layers} layers isn't a whole number: set --student_layers")
        config = type(teacher).from_dict(teacher.to_dict())
        if "num_hidden_layers" not in sizes:
            _set_layers(config, teacher.num_hidden_layers // 2, trust_remote_code, objective)
    elif name in EXTREME_LAYERS:
        if objective is CAUSAL:
            raise UserError(f"{name} is an encoder, but the teacher is a causal language model: choose thin or half")
        config = ElectraConfig(
            num_hidden_layers=EXTREME_LAYERS[name],
            vocab_size=teacher.vocab_size,
            pad_token_id=teacher.pad_token_id,
            max_position_embeddings=teacher.max_position_embeddings,
            type_vocab_size=max(getattr(teacher, "type_vocab_size", 2), 1),
            **EXTREME_SIZES,
        )
    else:
        config = check_one_stack(load_config(name, "student", trust_remote_code, PRESETS), name, "student")
    before = copy.deepcopy(config)
    for key, value in sizes.items():
        if value < 1:
            raise UserError(f"a student can't have {value} as its {key}: give 1 or more")
        if key == "intermediate_size":
            key = _name_of_neurons(config)
        if not hasattr(config, key):
            raise UserError(f"a student of the family {config.model_type} has no size {key}")
        if key == "num_hidden_layers":
            _set_layers(config, value, trust_remote_code, objective)
        else:
            setattr(config, key, value)
    _fit_heads(config, before)
    if config.hidden_size % config.num_attention_heads and not _sets_heads_apart(before):
        raise UserError(
            f"the student's hidden size {config.hidden_size} isn't a multiple of its {config.num_attention_heads} heads"
        )
    return config


def _name_of_neurons(config: PretrainedConfig) -> str:
    """What the configuration of a family calls them."""
    return next((name for name in _NEURONS if hasattr(config, name)), _NEURONS[0])


def _set_half_of_neurons(config: PretrainedConfig, trust_remote_code: bool) -> None:
    """Leave a model so many neurons that its layers have about half of their parameters: a multiple of 64, or of 8 in
    small models, which matrix products like.

    Raises:
        UserError: if that isn't possible, since the rest of its layers is larger.
    """
    name = _name_of_neurons(config)
    before = neurons_of(config)
    if not isinstance(before, int):
        raise UserError(
            f"thin: the layers of such a {config.model_type} model have different numbers of neurons, {before}: choose "
            "--student half"
        )
    setattr(config, name, before)
    whole, fewer = (_parameters_of_layers(config, n, trust_remote_code) for n in (before, before // 2))
    of_a_neuron = (whole - fewer) / (before - before // 2)
    if not of_a_neuron:
        raise UserError(f"thin: {name} doesn't change the layers of a {config.model_type} model: choose --student half")
    wanted = before - whole / 2 / of_a_neuron
    unit = 64 if before >= 1024 else 8
    if (neurons := unit * round(wanted / unit)) < unit:
        raise UserError(
            f"thin: the feed-forward networks of such a {config.model_type} model hold too few of its parameters to "
            "halve them there: choose --student half, or say with --student_intermediate_size how many neurons stay"
        )
    setattr(config, name, neurons)


def _parameters_of_layers(config: PretrainedConfig, neurons: int, trust_remote_code: bool) -> int:
    """With so many neurons in each feed-forward network."""
    config = copy.deepcopy(config)
    setattr(config, _name_of_neurons(config), neurons)
    with torch.device("meta"):
        body = AutoModel.from_config(config, trust_remote_code=trust_remote_code)
    return sum(parameter.numel() for parameter in layer_stack(body).parameters())


def _sets_heads_apart(config: PretrainedConfig) -> bool:
    """Whether heads have a size of their own, which doesn't follow from the hidden size."""
    size = getattr(config, "head_dim", None)
    return bool(size) and config.hidden_size != config.num_attention_heads * size


def _fit_heads(config: PretrainedConfig, before: PretrainedConfig) -> None:
    """Set what follows from the number of heads: of keys and values, and a head's size where it isn't its own.

    Args:
        before: the same without the sizes that are asked for.
    """
    heads, of_before = config.num_attention_heads, before.num_attention_heads
    groups = getattr(config, "num_key_value_heads", None)
    if groups and heads % groups:  # as many heads share a key as before
        config.num_key_value_heads = max(1, round(groups * heads / of_before))
        if heads % config.num_key_value_heads:
            raise UserError(
                f"a student of {heads} attention heads can't share the keys of {groups} as {of_before} heads do: "
                f"choose a multiple of {groups}"
            )
    size = config.hidden_size // heads
    # Some configurations (Falcon's) work it out themselves, and can't be told.
    if getattr(config, "head_dim", None) not in (None, size) and not _sets_heads_apart(before):
        config.head_dim = size


def _set_layers(config: PretrainedConfig, layers: int, trust_remote_code: bool, objective: Objective) -> None:
    """Change the depth; what a configuration lists layer by layer is thinned to the layers kept, or repeated."""
    before = config.num_hidden_layers
    listed = [key for key, value in config.to_dict().items() if isinstance(value, list) and len(value) == before]
    kept = kept_layers(layers, before, objective)
    if kept is None:
        kept = [1 + i % before for i in range(layers)]
    elif listed:  # a model without memory tells what its layers are made of
        with torch.device("meta"):
            parts = _layer_parts(AutoModel.from_config(copy.deepcopy(config), trust_remote_code=trust_remote_code))
        kept = _alike(parts[:layers], parts, kept)
    for key in listed:
        setattr(config, key, [getattr(config, key)[layer - 1] for layer in kept])
    config.num_hidden_layers = layers


def kept_layers(student_layers: int, teacher_layers: int, objective: Objective) -> list[int] | None:
    """The teacher's layers, counted from 1, that a student starts from; None for a student that is deeper.

    For masked models those whose output the student's are trained to match: g(l) = l N / m for l = 1 ... m of N, as
    Tutor-KD and TinyBERT have it, rounded up where m doesn't divide N. Of causal ones, whose layers needn't be
    compared one by one, some in even distances with both ends among them: the first turns tokens into what the others
    read, the last makes what the head reads.
    """
    if student_layers > teacher_layers:
        return None
    if objective is CAUSAL:
        gaps = max(student_layers - 1, 1)
        return [1 + round(i * (teacher_layers - 1) / gaps) for i in range(student_layers)]
    return [math.ceil(layer * teacher_layers / student_layers) for layer in range(1, student_layers + 1)]


def _layer_parts(model: PreTrainedModel) -> list[set[str]]:
    """The names of each layer's weights; empty where all layers share theirs."""
    stack = stack_of(model)
    return [] if stack is None else [set(layer.state_dict()) for layer in model.get_submodule(stack).children()]


def _alike(student: list[set[str]], teacher: list[set[str]], matching: list[int]) -> list[int]:
    """For each of the student's layers the teacher's layer, counted from 1, whose weights would do the same there.

    That is the matching one, unless it has parts that the student's layer lacks, or lacks some: ModernBERT has no norm
    before the attention of its first layer, and a student's first layer with weights made for normed inputs starts
    wrong. Then it is the nearest one that has the same parts, if there is any.
    """
    taken = []
    for parts, goal in zip(student, matching, strict=True):
        distances = {layer: abs(layer - goal) for layer, others in enumerate(teacher, start=1) if others == parts}
        taken.append(min(distances, key=distances.__getitem__, default=goal))
    return taken


def build_student(
    name: str,
    teacher: PretrainedConfig,
    sizes: Mapping[str, int] | None = None,
    pretrained: bool = False,
    head: Objective | None = None,
    trust_remote_code: bool = False,
) -> PreTrainedModel:
    """A student at random or, with ``pretrained``, with its checkpoint's weights; with a head for an objective, or
    without one.

    Takes what ``student_config`` takes and raises what it raises, and a UserError for a head that its family lacks.

    Example:
        >>> from transformers import BertConfig
        >>> from tutorkd import build_student
        >>> teacher = BertConfig(num_hidden_layers=4, hidden_size=32, num_attention_heads=4, intermediate_size=64)
        >>> build_student("half", teacher).config.num_hidden_layers
        2
        >>> build_student("half", teacher, {"num_hidden_layers": 1}).config.num_hidden_layers
        1
    """
    if pretrained:
        kind = head.model_class if head else AutoModel
        check_one_stack(load_config(name, "student", trust_remote_code, PRESETS), name, "student")
        return load_model(kind, name, "student", trust_remote_code=trust_remote_code, presets=PRESETS)[0]
    config = student_config(name, teacher, sizes, trust_remote_code, head or MASKED)
    # The encoder is drawn first, so that a seed gives the same one with and without a head.
    encoder = AutoModel.from_config(config, dtype=torch.float32, trust_remote_code=trust_remote_code)
    if head is None:
        encoder.config.name_or_path = ""  # nothing of that checkpoint's is in it
        return encoder
    if kind_of_config(config) is None:
        raise UserError(
            f"a student of the family {config.model_type} can't have the {head.head} that this method trains, which "
            "transformers lacks: choose minilm-v2, minilm or tinybert, or a student of another family"
        )
    model = head.model_class.from_config(config, dtype=torch.float32, trust_remote_code=trust_remote_code)
    model.base_model.load_state_dict(encoder.state_dict(), strict=False)  # one of the two may have a pooler
    model.config.name_or_path = ""
    return model


def has_weights(name: str) -> bool:
    """Whether a student's name stands for a checkpoint rather than for a preset or a folder with a config alone."""
    if name in PRESETS:
        return False
    path = Path(name)
    # Weights in pickles can't be read, but they are the student's: whoever loads them says so.
    return not path.is_dir() or any(any(path.glob(files)) for files in ("*.safetensors", "pytorch_model*.bin"))


def started_student(
    name: str,
    teacher: Reader,
    sizes: Mapping[str, int] | None = None,
    start: Start = "auto",
    head: Objective | None = None,
    trust_remote_code: bool = False,
    own_tokenizer: bool = False,
    spelling: Spelling | None = None,
) -> Started:
    """A student by name, as its training finds it.

    Args:
        name, sizes, head: as for ``build_student``.
        start: "teacher" (``initialise_from_teacher``), "random", or "auto": a checkpoint's own weights, else "teacher".
        own_tokenizer: whether its tokenizer isn't the teacher's, whose embeddings then say nothing about its tokens.
            What would start from the teacher then starts at random.
        spelling: of a causal student whose tokenizer isn't the teacher's. It takes over layers, and has embeddings for
            the tokens of that tokenizer.

    Raises:
        UserError: what ``build_student`` raises, for a number in the place of a name, or for sizes of a checkpoint that
            keeps its weights.
    """
    if name.isdigit() and not Path(name).is_dir():
        raise UserError(
            f"there is no student {name}: choose {', '.join(PRESETS)}, a Hub name or a path; its number of layers is "
            f"--student_layers {name}"
        )
    pretrained = keeps_weights(name, start)
    if pretrained and sizes:
        raise UserError(f"{name} has weights, which fix its sizes; leave the sizes out, or set --student_init random")
    if spelling is not None and not pretrained:
        sizes = {**(sizes or {}), "vocab_size": spelling.own_size}
    student = build_student(name, teacher.config, sizes, pretrained, head, trust_remote_code)
    if pretrained:
        return Started(student, "its own weights")
    if spelling is not None:
        _write_tokens_of(student, spelling.tokenizer)
    elif head is CAUSAL:
        _write_as(student, teacher.model)
    if start == "random" or own_tokenizer:
        return Started(student, "starts at random")
    made = initialise_from_teacher(student, teacher, spelling)
    return Started(student, made.ahead_of_text, made.sliced > 0)


def keeps_weights(name: str, start: Start) -> bool:
    """Whether a student by name starts with its own weights."""
    return has_weights(name) and start == "auto"


def _write_tokens_of(student: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Name the special tokens of a tokenizer in a student's configuration and in its settings for generation."""
    for settings in (student.config, student.generation_config):
        for token in ("bos_token_id", "eos_token_id", "pad_token_id"):
            setattr(settings, token, getattr(tokenizer, token))


def _write_as(student: PreTrainedModel, teacher: PreTrainedModel) -> None:
    """Give a student the teacher's settings for generation, such as the tokens that end an answer."""
    theirs = copy.deepcopy(teacher.generation_config)
    if theirs is None:
        return
    try:
        theirs.validate(strict=True)
    except ValueError:  # some old checkpoints have what transformers reads and doesn't write
        for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
            setattr(student.generation_config, name, getattr(theirs, name))
        return
    student.generation_config = theirs


@torch.no_grad()
def initialise_from_teacher(
    student: PreTrainedModel,
    teacher: Reader,
    spelling: Spelling | None = None,
    importance: Importance | None = None,
    refitted: Mapping[str, Tensor] | None = None,
) -> Initialisation:
    """Copy the teacher's embeddings, layers and, if the student has one, head, wherever names and shapes allow it.

    A student that is narrower, or has fewer heads, gets slices of the teacher's weights, as ``tutorkd.slices`` makes
    them.

    Layer l of the student is copied from the teacher's layer that ``kept_layers`` gives or, if that one is built
    differently (ModernBERT's first layer has no norm), from the nearest that is built in the same way. This works for
    any two models of one family: a layer is an item of the module list that is as long as the model is deep. A head
    that the teacher's own model doesn't have stays as it is.

    Args:
        spelling: of the teacher's tokens in those of a student with another tokenizer, whose embeddings are then means
            of the teacher's (``Spelling.averaged``).
        importance: of the teacher's dimensions on some text (``tutorkd.importance``), of which a narrower student then
            keeps those that matter most.
        refitted: weights of the teacher's body to be taken in the place of its own (``Refit.weights``).

    Example:
        >>> from transformers import BertConfig, BertForMaskedLM
        >>> from tutorkd import Teacher, build_student, initialise_from_teacher
        >>> config = BertConfig(num_hidden_layers=4, hidden_size=32, num_attention_heads=4, intermediate_size=64)
        >>> teacher, student = Teacher(BertForMaskedLM(config)), build_student("half", config)
        >>> initialise_from_teacher(student, teacher).layers
        [2, 4]
        >>> of_student, of_teacher = student.encoder.layer[0], teacher.body.encoder.layer[1]
        >>> torch.equal(of_student.output.dense.weight, of_teacher.output.dense.weight)
        True
    """
    body = cast("PreTrainedModel", student.base_model)
    depths = body.config.num_hidden_layers, teacher.config.num_hidden_layers
    layers = kept_layers(*depths, teacher.objective) or []
    if layers and (parts := _layer_parts(body)):
        layers = _alike(parts, _layer_parts(teacher.body), layers)
    source, target = {**teacher.body.state_dict(), **(refitted or {})}, body.state_dict()
    if spelling is not None:
        embeddings = cast(nn.Embedding, teacher.body.get_input_embeddings()).weight.data_ptr()
        source = {k: spelling.averaged(v) if v.data_ptr() == embeddings else v for k, v in source.items()}
    student_stack, teacher_stack = stack_of(body), stack_of(teacher.body)
    slices, copied, sliced, used = Slices(teacher.config, body.config, importance), 0, 0, False
    for key, value in target.items():
        origin, in_layer = key, False
        if student_stack and teacher_stack and key.startswith(student_stack + "."):
            index, _, rest = key[len(student_stack) + 1 :].partition(".")
            origin, in_layer = f"{teacher_stack}.{layers[int(index)] - 1}.{rest}" if layers else "", True
        of = layer_of(origin, teacher_stack)
        if origin in source and slices.copy(origin, whole(source[origin]), value, of):
            copied, used = copied + 1, used or in_layer
            sliced += source[origin].shape != value.shape
    total = len(target)
    if body is not student:
        head = teacher.head.state_dict() if hasattr(teacher, "head") else {}
        # A head tied to the embeddings is filled by then; the teacher's may be another matrix, which reads no tokens.
        tied = {value.data_ptr() for value in target.values()}
        own = {key: value for key, value in Head(student).state_dict().items() if value.data_ptr() not in tied}
        if spelling is not None:
            of_tokens = [key for key in own if key in head and len(head[key]) == teacher.config.vocab_size]
            head = head | {key: spelling.averaged(head[key]) for key in of_tokens}
        fitting = [key for key, value in own.items() if key in head and slices.copy(key, whole(head[key]), value)]
        copied, total = copied + len(fitting), total + len(own)
        sliced += sum(head[key].shape != own[key].shape for key in fitting)
    chosen = Initialisation.chosen if importance is None else _MOST
    return Initialisation(copied, sliced, total, layers if used else [], spelling is not None, chosen)


def neurons_of(config: PretrainedConfig) -> int:
    """Of each feed-forward network of a model."""
    return getattr(config, _name_of_neurons(config), None) or 4 * config.hidden_size  # as GPT-2 reads None


def told_sizes(model: PreTrainedModel) -> str:
    """A model's family and sizes in words."""
    c, parameters = model.config, sum(p.numel() for p in model.parameters())
    return (
        f"{c.model_type}, {c.num_hidden_layers} layers, hidden size {c.hidden_size}, {c.num_attention_heads} heads, "
        f"{neurons_of(c)} neurons a layer, {parameters / 1e6:.1f} M parameters"
    )


def _neurons_read(body: PreTrainedModel, importance: Importance) -> int:
    """How many neurons a student has where its teacher's layers read theirs; 0 where it has no such modules."""
    stack, modules = stack_of(body), dict(body.named_modules())
    ends = {name.removeprefix(layer) for layer, name in importance.readers.items()}
    names = (
        ends if stack is None else {f"{stack}.{i}{end}" for i in range(body.config.num_hidden_layers) for end in ends}
    )
    found: list[Any] = [modules[name] for name in names if name in modules]
    return max((module.nx if isinstance(module, Conv1D) else module.in_features for module in found), default=0)


def start_from_text(
    student: PreTrainedModel,
    teacher: Reader,
    read: Callable[[], object],
    reader: PreTrainedModel | None = None,
    spelling: Spelling | None = None,
) -> tuple[Initialisation, Importance | None]:
    """Start a student that is narrower than its teacher from what matters most on a text: the most important
    dimensions (``tutorkd.importance``), where those neurons that stay take over from the others (``tutorkd.refit``).

    Args:
        read: has the teacher read the text; it is called twice.
        reader: the body that then reads, if that isn't the teacher's own (``watching``).
        spelling: as for ``initialise_from_teacher``.

    Returns:
        What the student took over, and how important the teacher's dimensions are, if that can be told.
    """
    refitted: dict[str, Tensor] = {}
    with watching(teacher.body, reader) as watch:
        read()
    importance = watch.importance()
    if importance is not None:
        neurons = _neurons_read(cast("PreTrainedModel", student.base_model), importance)
        with refitting(teacher.body, importance, neurons, reader) as refit:
            if refit.kept:
                read()
        refitted = refit.weights()
    return initialise_from_teacher(student, teacher, spelling, importance, refitted), importance
