"""The model card: describes the student, its teachers, training and evaluation."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from huggingface_hub import EvalResult, ModelCardData

import jdistill
from jdistill.evaluate import format_table
from jdistill.papers import Papers, citations
from jdistill.yaml_text import write_yaml


@dataclass(frozen=True)
class TeacherInfo:
    """A teacher, and how its vectors were obtained."""

    name: str
    model: str
    """Hub id or folder."""
    revision: str | None = None
    weight_hash: str | None = None
    vectors: Literal["embedded", "imported", "unverified"] = "unverified"
    """`embedded`: computed by this model, with its weight hash recorded in the store. `imported`: received without the
    model, whose name is the provider's claim. `unverified`: named in the recipe, but there was no store to check."""


@dataclass(frozen=True)
class CardInfo:
    """The content of a model card. All numbers are measured; unknown facts are omitted."""

    name: str
    teachers: Sequence[TeacherInfo]
    width: int
    max_length: int | None
    """Tokens, special tokens included; None: unlimited."""
    architecture: Mapping[str, Any]
    """Row -> value, such as `{"encoder": "BERT", "layers": 3}`."""
    losses: Mapping[str, Mapping[str, Any]]
    """Name of the term -> its options, with `kind` and `weight`."""
    papers: Papers = ()
    """Works behind losses, poolings and training, cited after Sentence-BERT."""
    training: Mapping[str, Any] = field(default_factory=dict)
    """Row -> value, such as `{"steps": 1000, "rows per step": 256}`."""
    results: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """Model -> `evaluator/metric` -> value. The student is listed as `name`; others, such as the teacher or the student
    before training, under other names."""
    tasks: Mapping[str, str | None] = field(default_factory=dict)
    """Evaluator -> its `task`, for evaluators in `results`."""
    prompts: Mapping[str, str] = field(default_factory=dict)
    """Side -> text prepended to each input."""
    sparse: bool = False
    """Whether the model is a SparseEncoder, with a weight for each token of the vocabulary."""
    own_modules: Sequence[str] = ()
    """Names of the module files in the folder; with any, loading needs `trust_remote_code=True`."""
    initialised_from: str | None = None
    """Hub id or folder of the model that the student started from."""
    base_model: str | None = None
    """Its hub id; None if it has none or it is unknown: the hub rejects cards whose base model is a path."""
    max_difference: float | None = None
    """Largest difference between the exported and the trained model's vectors, as measured by `verify`."""
    versions: Mapping[str, str] = field(default_factory=dict)
    """Package -> version."""
    recipe: str | None = None
    """The resolved recipe as YAML."""
    language: Sequence[str] = ()
    license: str | None = None


def write_card(folder: str | Path, info: CardInfo) -> Path:
    """Write `README.md` into an exported folder."""
    path = Path(folder) / "README.md"
    path.write_text(make_card(info), encoding="utf-8")
    return path


def make_card(info: CardInfo) -> str:
    """The card as Markdown with YAML front matter for the Hugging Face hub."""
    sections = [
        f"---\n{write_yaml(_metadata(info).to_dict()).strip()}\n---",
        f"# {info.name}",
        _summary(info),
        _usage(info),
        _heading("Model", _table({**info.architecture, **_facts(info)})),
        _heading("Teachers", _teachers(info.teachers) if info.teachers else ""),
        _heading("Evaluation", _evaluation(info)),
        _heading("Training", _training(info)),
        _heading("Versions", _table(info.versions)),
        _recipe(info.recipe),
        _heading("Citation", f"```bibtex\n{citations(info.papers)}\n```"),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _metadata(info: CardInfo) -> ModelCardData:
    kind = ["sparse-encoder", "sparse"] if info.sparse else ["sentence-similarity"]
    return ModelCardData(
        language=list(info.language) or None,
        license=info.license,
        library_name="sentence-transformers",
        pipeline_tag="feature-extraction" if info.sparse else "sentence-similarity",
        tags=["sentence-transformers", *kind, "feature-extraction", "distillation", "jdistill"],
        base_model=info.base_model,
        model_name=info.name,
        eval_results=list(_eval_results(info)) or None,
    )


def _eval_results(info: CardInfo) -> Iterator[EvalResult]:
    for full_name, value in info.results.get(info.name, {}).items():
        evaluator, _, metric = full_name.rpartition("/")
        task = info.tasks.get(evaluator)
        if task is None or value != value:  # not a number
            continue
        yield EvalResult(
            task_type=task.lower().replace(" ", "-"),
            task_name=task,
            dataset_type=evaluator,
            dataset_name=evaluator,
            metric_type=metric,
            metric_name=metric.replace("_", " ").capitalize(),
            metric_value=round(float(value), 6),
        )


def _summary(info: CardInfo) -> str:
    teachers = _sentence([_taught_by(teacher) for teacher in info.teachers])
    start = f", starting from {_span(model_name(info.initialised_from))}" if info.initialised_from else ""
    what = (
        f"A sparse embedding model: it maps text to a weight for each of {info.width} tokens, most of them zero, for "
        "search with an inverted index."
        if info.sparse
        else f"A sentence embedding model: it maps text to a vector of {info.width} numbers, for semantic search, "
        "clustering and similarity."
    )
    made = f"distilled from {teachers}" if info.teachers else "trained"
    return (
        f"{what} It was {made}{start} with jdistill, which trains in JAX and "
        "exports to sentence-transformers and transformers."
    )


def _usage(info: CardInfo) -> str:
    if any(info.prompts.values()):
        encode = 'queries = model.encode(["a question"], prompt_name="query")\n'
        encode += 'documents = model.encode(["an answer", "something else"], prompt_name="document")\n'
    else:
        encode = 'queries = model.encode(["a question"])\ndocuments = model.encode(["an answer", "something else"])\n'
    cls = "SparseEncoder" if info.sparse else "SentenceTransformer"
    trust = ", trust_remote_code=True" if info.own_modules else ""
    files = _sentence([_span(name) for name in info.own_modules]) if info.own_modules else ""
    why = (
        f"\n\n`trust_remote_code=True` allows running {files} in this folder: a pooling that sentence-transformers "
        "does not have, in plain PyTorch and without a dependency on jdistill. Review it first."
        if info.own_modules
        else ""
    )
    return _heading(
        "Usage",
        f"With sentence-transformers{' 5 or later' if info.sparse or info.own_modules else ''}:\n\n"
        f"```python\nfrom sentence_transformers import {cls}\n\n"
        f'model = {cls}("{info.name}"{trust})\n{encode}'
        f"print(model.similarity(queries, documents))\n```{why}\n\n"
        "With jdistill, in JAX and without torch:\n\n```python\nimport jdistill\n\n"
        f'model = jdistill.load("{info.name}")\n{encode}'
        "print(queries @ documents.T)\n```",
    )


def _facts(info: CardInfo) -> dict[str, Any]:
    facts: dict[str, Any] = {"width of the vectors": info.width}
    if info.max_length is not None:
        facts["longest input"] = f"{info.max_length} tokens"
    facts |= {f"prompt of a {side}": _span(prompt) for side, prompt in info.prompts.items() if prompt}
    return facts


def _taught_by(teacher: TeacherInfo) -> str:
    """A teacher as part of a sentence, qualified by what is known."""
    name = _span(model_name(teacher.model))
    return {
        "embedded": name,
        "imported": f"imported vectors attributed to {name}",
        "unverified": f"{name} (as named in the recipe; not verified)",
    }[teacher.vectors]


_VECTORS = {
    "embedded": "computed by this model",
    "imported": "imported; not verified to be from this model",
    "unverified": "as named in the recipe; not verified, since the store was not available",
}
"""`TeacherInfo.vectors` -> its description in the card."""


def _teachers(teachers: Sequence[TeacherInfo]) -> str:
    lines = ["| name | model | revision | weights (sha256) | vectors |", "|---|---|---|---|---|"]
    for teacher in teachers:
        model = model_name(teacher.model)
        cells = (teacher.name, model, teacher.revision or "-", teacher.weight_hash or "-", _VECTORS[teacher.vectors])
        lines.append("| " + " | ".join(_cell(cell) for cell in cells) + " |")
    return "\n".join(lines)


def _evaluation(info: CardInfo) -> str:
    parts = []
    if info.results:
        parts.append(_fenced(format_table(info.results, width=100), "text"))
    if info.max_difference is not None:
        parts.append(
            "This folder was loaded again with sentence-transformers and its vectors compared with those of the "
            f"trained model: the largest difference of any number was {info.max_difference:.1e}."
        )
    return "\n\n".join(parts)


def _training(info: CardInfo) -> str:
    parts = []
    if info.losses:
        lines = ["| loss | kind | weight | options |", "|---|---|---|---|"]
        for name, options in info.losses.items():
            rest = {key: value for key, value in options.items() if key not in ("kind", "weight") and value is not None}
            shown = ", ".join(f"{key}={value}" for key, value in rest.items())
            cells = (name, options["kind"], _weight(options.get("weight", 1.0)), shown or "-")
            lines.append("| " + " | ".join(_cell(cell) for cell in cells) + " |")
        parts.append("\n".join(lines))
    if info.training:
        parts.append(_table(info.training))
    return "\n\n".join(parts)


def _weight(weight: float | Mapping[str, Any]) -> str:
    """A number, or a description of a ramp."""
    if not isinstance(weight, Mapping):
        return f"{weight:g}"
    way = f"{weight['start']:g} to {weight['stop']:g}"
    return f"{way} between {weight.get('begin', 0):.0%} and {weight.get('end', 1):.0%} of the training"


def _recipe(recipe: str | None) -> str:
    if not recipe:
        return ""
    return (
        "## Recipe\n\n"
        f"Made with jdistill {jdistill.__version__}. To reproduce the run, adapt the paths and pass this file to "
        f"`jdistill train`.\n\n{_fenced(recipe, 'yaml')}"
    )


def _heading(title: str, body: str) -> str:
    return f"## {title}\n\n{body}" if body else ""


def _table(rows: Mapping[str, Any]) -> str:
    if not rows:
        return ""
    return "\n".join(["| | |", "|---|---|", *(f"| {_cell(key)} | {_cell(value)} |" for key, value in rows.items())])


def _fenced(text: str, language: str) -> str:
    """A code block whose fence is longer than any run of backticks inside."""
    fence = "`" * (1 + _backticks(text, least=3))
    return f"{fence}{language}\n{text.rstrip()}\n{fence}"


def _span(text: str) -> str:
    """Inline code, safe for backticks and line breaks in the text."""
    ticks = "`" * (1 + _backticks(text, least=0))
    space = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{ticks}{space}{' '.join(text.splitlines())}{space}{ticks}"


def _backticks(text: str, *, least: int) -> int:
    """Length of the longest run of backticks, at least `least`."""
    return max([least, *map(len, re.findall("`+", text))])


def _cell(value: Any) -> str:
    text = " ".join(str(value).splitlines()).replace("|", "\\|")
    return text.replace("<", "&lt;").replace(">", "&gt;")


def _sentence(items: Sequence[str]) -> str:
    return " and ".join([", ".join(items[:-1]), items[-1]] if len(items) > 1 else items)


def _is_path(model: str) -> bool:
    return model.startswith((".", "/", "~")) or model.count("/") > 1 or Path(model).exists()


def model_name(model: str) -> str:
    """A hub id unchanged; for a folder only its name, since local paths are of no use to readers."""
    return Path(model).name if _is_path(model) else model
