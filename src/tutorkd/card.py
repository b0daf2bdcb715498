"""Model cards."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from huggingface_hub import ModelCard, ModelCardData
from huggingface_hub.repocard import metadata_load
from transformers import PreTrainedModel, TrainerState

from tutorkd import __version__
from tutorkd.constants import counts
from tutorkd.objective import CAUSAL, EMBEDDING, objective_of
from tutorkd.probe import FIGURES, TEACHER_ACCURACY
from tutorkd.step import Figure
from tutorkd.students import told_sizes
from tutorkd.tables import aligned, escaped
from tutorkd.words import as_figure

if TYPE_CHECKING:
    from tutorkd.config import PretrainingConfig
    from tutorkd.methods import Method
    from tutorkd.teacher import Teacher

# What a student is, how it is used, and the Hub's name for that, by what it has a head for.
_KINDS = {
    None: (
        "An encoder",
        "It has no MLM head: fine-tune it for a task, or pool its last hidden states.",
        "feature-extraction",
    ),
    "masked": ("An encoder", "It has an MLM head; `AutoModel` loads the encoder without it.", "feature-extraction"),
    "causal": ("A causal language model", "It writes with `model.generate`.", "text-generation"),
}
# The Hub's names for what a model's head is for, by how the name of its class ends.
_TASKS = {
    "ForMaskedLM": "fill-mask",
    "ForCausalLM": "text-generation",
    "LMHeadModel": "text-generation",
    "ForSequenceClassification": "text-classification",
    "ForTokenClassification": "token-classification",
    "ForQuestionAnswering": "question-answering",
}
_LOAD = """\
from transformers import {loader}, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("THIS_FOLDER_OR_REPOSITORY")
model = {loader}.from_pretrained("THIS_FOLDER_OR_REPOSITORY")"""
_EMBED = """\
from sentence_transformers import SentenceTransformer

model = SentenceTransformer("THIS_FOLDER_OR_REPOSITORY")
vectors = model.encode(["a text", "another"])"""

_PRINT_CLASSES = """\
classes = json.load(open("THIS_FOLDER/config.json"))["id2label"]
print([classes[str(code)] for code in logits.argmax(-1).flatten()])
"""
_PRINT_LISTS = """\
classes = json.load(open("THIS_FOLDER/config.json"))["id2label"]
print([[classes[str(code)] for code in (row > 0).nonzero()[0]] for row in logits])
"""


_CHAT = """ It answers messages:

```python
from transformers import pipeline

chat = pipeline("text-generation", "THIS_FOLDER_OR_REPOSITORY")
print(chat([{"role": "user", "content": "Who wrote Faust?"}])[0]["generated_text"][-1]["content"])
```"""


class AboutText(NamedTuple):
    """What a card says of the text that was trained on.

    Attributes:
        facts: rows of its table.
        datasets: names on the Hub.
        languages: codes, by default those of the base model.
    """

    facts: dict[str, str]
    datasets: list[str]
    languages: list[str] | None = None


NOT_TOLD = AboutText({}, [])


class EarlierStage(NamedTuple):
    """What a card says of the run that made a student's checkpoint before it was trained on.

    Attributes:
        facts: in words.
    """

    method: "Method"
    facts: str


def student_card(
    folder: Path,
    student: PreTrainedModel,
    teacher: "Teacher",
    method: "Method",
    settings: Any,
    config: "PretrainingConfig",
    state: TrainerState,
    about: AboutText,
    earlier: EarlierStage | None = None,
) -> None:
    """Write README.md of a student: what it is, how to load it, how it was made, whom to cite."""
    base = teacher.config.name_or_path or ""
    name = _public(base) or "a teacher"
    changed = [
        f"{field.name} {value}"
        for field in dataclasses.fields(method.settings)
        if (value := getattr(settings, field.name)) != field.default and counts(field.name, settings)
    ]
    facts = {
        **{role: _described(each) for role, each in zip(("teacher", "its MLM from"), teacher.parts, strict=False)},
        **_licence(base),
        **_logged(state, "rounding", list(TEACHER_ACCURACY.values())),
        "student": told_sizes(student),
        **({"first stage": f"{earlier.method.title}, {earlier.facts}"} if earlier else {}),
        "method": method.title,
        "constants": f"{', '.join(changed)}; otherwise the defaults" if changed else "the defaults",
        **about.facts,
        **_training(config, state),
        **_logged(state, "held-out text", FIGURES),
    }
    loader = settings.student_head.model_class.__name__ if settings.student_head else "AutoModel"
    what, head, task = _KINDS[settings.student_head and settings.student_head.name]
    load, library = _LOAD.format(loader=loader), "transformers"
    if task == "text-generation" and (folder / "chat_template.jinja").exists():
        head += _CHAT
    if teacher.objective is EMBEDDING:
        what, task = "An embedding model", "sentence-similarity"
        head = "Its vectors can be compared with its teacher's. `AutoModel` only loads its body."
        load, library = _EMBED, "sentence-transformers"
    methods = [*([earlier.method] if earlier and earlier.method is not method else []), method]
    titles, citations = [each.title for each in methods], "\n\n".join(each.citation for each in methods)
    text = f"""\
# A student of {name}

{what} trained with {" and then ".join(titles)} by tutorkd {__version__}. It is a plain {library} model:

```python
{load}
```

{head}

{_table(facts)}

`training_heads.safetensors`, if it is there, is only needed to continue training (it holds a tutor's head, projections
and the like). You don't need it to use the student.

## Citation

```bibtex
{citations}
```
"""
    tags = ["knowledge-distillation", *(title.lower().replace(" ", "-") for title in titles)]
    _write(folder, text, task, tags, base, library, about)


def teacher_card(
    folder: Path, model: PreTrainedModel, config: "PretrainingConfig", state: TrainerState, about: AboutText
) -> None:
    """Write README.md of a language model that was trained further, or from random weights if it has no name."""
    base = model.config.name_or_path or ""
    objective = objective_of(model)
    title = f"{_public(base)}, adapted" if base else f"A {objective.noun}"
    facts = {
        "model": told_sizes(model),
        **_licence(base),
        **about.facts,
        **_training(config, state),
        **_logged(state, "held-out text", FIGURES),
    }
    text = f"""\
# {title}

A {objective.noun}, trained {"further " if base else ""}on a corpus by tutorkd {__version__}; load it with
`{objective.model_class.__name__}.from_pretrained`.

{_table(facts)}
"""
    task, tag = ("text-generation", "causal-lm") if objective is CAUSAL else ("fill-mask", "masked-lm")
    _write(folder, text, task, [tag], base, about=about)


def onnx_card(folder: Path, name: str, file: str, output: str, classified: str | None, figures: str) -> None:
    """Write README.md of exported files: how to run one, and what is known of them.

    Args:
        name: of the checkpoint that they were made of.
        file: the one to run, in the folder.
        output: its name, ``logits``, ``sentence_embedding`` or ``last_hidden_state``.
        classified: how it is logits of classes, in transformers' words; None where it isn't.
        figures: a table in Markdown.
    """
    imports, labels = ("import json\n\n", _PRINT_CLASSES) if classified else ("", "")
    if classified == "multi_label_classification":
        labels = _PRINT_LISTS
    text = f"""\
# {escaped(_public(name))}, as ONNX

```python
{imports}import onnxruntime
from transformers import AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("THIS_FOLDER_OR_REPOSITORY")
session = onnxruntime.InferenceSession("THIS_FOLDER/{file}")
tokens = tokenizer(["a text", "another"], padding=True, truncation=True, return_tensors="np")
({output},) = session.run(["{output}"], {{each.name: tokens[each.name] for each in session.get_inputs()}})
{labels}```

{figures}
Exported by tutorkd {__version__}.
"""
    tag = "token-classification" if classified == "token_classification" else "text-classification"
    _write(folder, text, tag if output == "logits" else "feature-extraction", ["onnx"], name)


def trimmed_card(folder: Path, name: str, model: PreTrainedModel, embeds: bool, figures: str) -> None:
    """Write README.md of a model of some of another one's tokens.

    Args:
        name: of the other one.
        embeds: whether it is a model of sentence-transformers.
        figures: both of them, a table in Markdown.
    """
    loader, library = type(model).__name__, "sentence-transformers" if embeds else "transformers"
    text = f"""\
# {escaped(_public(name))}, trimmed

The same model with fewer tokens, those of a text. To text of these tokens it gives the same answers.

```python
{_EMBED if embeds else _LOAD.format(loader=loader)}
```

{figures}

Trimmed by tutorkd {__version__}. `trimmed.json` has the ids that the tokens had before.
"""
    task = next((task for head, task in _TASKS.items() if loader.endswith(head)), "feature-extraction")
    _write(folder, text, "sentence-similarity" if embeds else task, ["vocabulary-trimming"], name, library)


def _described(teacher: "Teacher") -> str:
    name = _public(teacher.config.name_or_path or "") or "a model"
    return f"{name}, {teacher.config.num_hidden_layers} layers{' in int8' * teacher.quantised}"


def _licence(base: str) -> dict[str, str]:
    found = _told_by(base).get("license")
    return {"licence of the base model": str(found)} if found else {}


def _languages(base: str) -> list[str] | None:
    found = _told_by(base).get("language")
    codes: list[Any] = found if isinstance(found, list) else [found]
    return codes if all(isinstance(code, str) and code for code in codes) else None


def _told_by(base: str) -> dict[str, Any]:
    """The head of the card in a base model's folder, empty if there is none; of one on the Hub nothing is fetched."""
    card = Path(base) / "README.md"
    try:
        found = metadata_load(card) if base and card.is_file() else None
    except Exception:  # a card may hold anything; YAML's errors and the Hub client's share no base class
        found = None
    return found if isinstance(found, dict) else {}


def _public(name: str) -> str:
    """A Hub name as it is; of a path of somebody's machine the last part alone."""
    return Path(name).name if Path(name).exists() else name


def _training(config: "PretrainingConfig", state: TrainerState) -> dict[str, str]:
    rows = config.train_batch_size * config.world_size * config.gradient_accumulation_steps
    return {
        "steps": f"{state.global_step:,} of {state.max_steps:,}, {rows} rows each",
        "learning rate": f"{config.learning_rate:g}",
        "seed": f"{config.seed}",
    }


def _logged(state: TrainerState, fact: str, figures: Sequence[Figure]) -> dict[str, str]:
    """What the log last told of figures, as it calls them; nothing if it never did."""
    for entry in reversed(state.log_history):
        if told := [f"{figure.label} {as_figure(entry[figure.name])}" for figure in figures if figure.name in entry]:
            return {fact: ", ".join(told)}
    return {}


def _table(facts: dict[str, str]) -> str:
    return aligned(["", ""], list(facts.items()), words=2)


def _write(
    folder: Path,
    text: str,
    task: str,
    tags: list[str],
    base_model: str,
    library: str = "transformers",
    about: AboutText = NOT_TOLD,
) -> None:
    data = ModelCardData(
        language=about.languages or _languages(base_model),
        library_name=library,
        pipeline_tag=task,
        tags=tags,
        datasets=about.datasets or None,
        # Only a name on the Hub may stand here; a path of somebody's machine may not.
        base_model=base_model if base_model.count("/") == 1 and not Path(base_model).exists() else None,
    )
    ModelCard(f"---\n{data.to_yaml()}\n---\n\n{text}").save(folder / "README.md")
