"""`jdistill plan`: what a run would need on chips that you don't have.

Works without a store, teacher or weights. Uses what is available (the store's lengths, rows and widths, the models'
sizes), assumes the rest, and lists every assumption.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from jdistill.config import UserError
from jdistill.loader import Loader
from jdistill.plan import (
    MAX_LENGTH,
    Job,
    RowForm,
    as_values,
    format_plan,
    make_plan,
    parse_topology,
    planned_student,
)
from jdistill.recipe import Recipe
from jdistill.store import Store
from jdistill.student import Student
from jdistill.teacher import TeacherConfig
from jdistill.train.groups import Groups, frozen_paths
from jdistill.train.optimizer import make_optimizer
from jdistill.verbs.prune import check_pruned
from jdistill.verbs.train import check_packing, make_loader

TEACHER_WIDTH = 1024
"""Assumed width of a teacher's vectors, as in most large embedding models."""

STEPS = 10_000
"""Assumed number of steps where it depends on unknown rows; only the schedule uses it, no planned figure does."""


class Lengths(NamedTuple):
    """Padded lengths given by the user."""

    query: int
    document: int


def plan(
    recipe: Recipe,
    topologies: Sequence[str],
    *,
    length: str | None = None,
    teacher_width: Sequence[str] = (),
    search: bool = False,
    as_json: bool = False,
) -> str:
    """Plans of the recipe's train step on each topology, as text or as a JSON list.

    Args:
      recipe: the run.
      topologies: such as `v5e:16x16`.
      length: padded tokens per text, `N` or `QUERYxDOCUMENT`, instead of the store's or the student's longest; with
        packing or folding, the mean number of tokens.
      teacher_width: `N` for all teachers, or `NAME=N`, if neither store nor model specify it.
      search: find the largest batch by compiling several batch sizes instead of from the trace; slow.
      as_json: print values instead of text.

    Raises:
      UserError: if an argument is malformed, or the batch does not divide over the chips.
    """
    slices = [parse_topology(name) for name in topologies]
    lengths, widths, plans = _lengths(length), _widths(recipe, teacher_width), []
    for topology in slices:
        check_packing(recipe.loader.packing, topology.chip.platform)
        job, assumed = make_job(recipe, topology.chips, length=lengths, widths=widths)
        plans.append((make_plan(job, topology, search=search), assumed))
    if as_json:
        return json.dumps([as_values(made, assumed) for made, assumed in plans], indent=2)
    return "\n\n".join(format_plan(made, assumed) for made, assumed in plans)


def make_job(recipe: Recipe, chips: int, *, length: Lengths | None, widths: Mapping[str, int]) -> tuple[Job, list[str]]:
    """The recipe's train step on `chips` chips, and the assumptions made."""
    if recipe.student.encoder is None:  # else a plan can use the sizes stated there
        check_pruned(recipe)
    assumed: list[str] = []
    store = Store.open(recipe.store) if (Path(recipe.store) / "manifest.json").is_file() else None
    terms = recipe.terms()
    taught = sorted({teacher for term in terms.values() for teacher in term.teachers})
    known = {name: widths.get(name) or _width(recipe.teachers[name], name, store, assumed) for name in taught}
    projected = {teacher for term in terms.values() if term.needs().projection for teacher in term.teachers}
    planned = planned_student(recipe.student, {name: known[name] for name in sorted(projected)})
    assumed += planned.assumed
    rows, steps_per_epoch = _rows(recipe, store, planned.student, chips, length, assumed)
    total = recipe.train.total_steps(steps_per_epoch or STEPS)
    config = recipe.train.optimizer
    groups = Groups(config.groups, config.weight_decay, frozen_paths(planned.student))
    return Job(
        name=recipe.name,
        student=planned.student,
        params=planned.params,
        terms=terms,
        optimizer=make_optimizer(config, recipe.train.schedule, total, groups),
        groups=groups,
        rows=rows,
        teacher_widths=known,
        global_batch_size=recipe.train.global_batch_size,
        microbatches=recipe.train.microbatches,
        fsdp=recipe.train.fsdp,
        seed=recipe.seed,
        total_steps=total,
        ema=None if recipe.train.ema is None else recipe.train.ema.decay,
    ), assumed


def _rows(
    recipe: Recipe, store: Store | None, student: Student, chips: int, length: Lengths | None, assumed: list[str]
) -> tuple[RowForm, int | None]:
    """The form of a batch's rows, and batches per epoch if there is a store."""
    if store is None:
        return _rows_of_config(recipe, student, length, assumed), None
    rows = store.rows("train")
    scores, labels = 0 if rows.scores is None else rows.scores.shape[1], rows.labels is not None
    documents = rows.documents.shape[1]
    steps = max(1, len(rows.documents) // recipe.train.global_batch_size)
    if length is None and student.tokenizer is not None and len(rows.documents) >= recipe.train.global_batch_size:
        loader = make_loader(recipe, store, student, pieces=chips * recipe.train.microbatches)
        return _rows_of_loader(recipe, loader, documents, scores, assumed)._replace(labels=labels), steps
    found = length or _longest(recipe, student, assumed)
    form = RowForm(0 if rows.queries is None else found.query, found.document, documents, scores)
    return _laid_out(recipe, form._replace(labels=labels), assumed), steps


def _rows_of_loader(recipe: Recipe, loader: Loader, documents: int, scores: int, assumed: list[str]) -> RowForm:
    """The form of the store's largest batch."""
    longest = max(loader.shapes, key=lambda shape: shape.query + documents * shape.document)
    if len(loader.shapes) > 1:
        assumed.append(f"the largest of the store's batches, which have {loader.layout}")
    if recipe.loader.packing is None and not recipe.loader.folding:
        return RowForm(longest.query, longest.document, documents, scores)
    example = loader.batch(0)
    form = RowForm(
        0 if example.queries is None else example.queries.ids.shape[-1],
        example.documents.ids.shape[-1],
        documents,
        scores,
    )
    if recipe.loader.packing is None:
        return form.folded(longest.query, longest.document)
    piece = recipe.train.global_batch_size // (loader.pieces or 1)
    return form.packed(recipe.loader.packing, longest.query / piece, longest.document / piece)


def _rows_of_config(recipe: Recipe, student: Student, length: Lengths | None, assumed: list[str]) -> RowForm:
    """The form given by the config's columns, one text or number per column."""
    sources = [source.columns for source in recipe.data.values() if source.role == "train"]
    columns = sources[0]
    negatives = columns.keep_negatives or len(columns.negative_columns)
    if columns.negative_columns and columns.keep_negatives is None:
        assumed.append(f"{negatives} hard negative(s) per row, one for each negative column")
    found = length or _longest(recipe, student, assumed)
    plain = columns.text is not None
    form = RowForm(0 if plain else found.query, found.document, 1 + negatives, len(columns.score_columns))
    return _laid_out(recipe, form._replace(labels=columns.label is not None), assumed)


def _laid_out(recipe: Recipe, form: RowForm, assumed: list[str]) -> RowForm:
    """`form` with the recipe's packing or folding, assuming all texts have the same length."""
    capacity = recipe.loader.packing
    if recipe.loader.folding:
        return form.folded(2 * form.query_length, 2 * form.document_length)
    if capacity is None:
        return form
    assumed.append(f"texts fill rows of {capacity} tokens without gaps")
    query, document = (min(length, capacity) / capacity for length in (form.query_length, form.document_length))
    return form.packed(capacity, query, form.documents * document)


def _longest(recipe: Recipe, student: Student, assumed: list[str]) -> Lengths:
    """Maximum text lengths, from the student's max_length or the packed rows, padded as by the loader."""
    longest = min(student.max_length, MAX_LENGTH, recipe.loader.packing or MAX_LENGTH)
    multiple = recipe.loader.pad_to_multiple
    query, document = (-(-longest // step) * step for step in (multiple.query, multiple.document))
    assumed.append(f"every text has the maximum of {document} tokens; plan for shorter texts with e.g. --length 32x128")
    return Lengths(query, document)


def _lengths(text: str | None) -> Lengths | None:
    if text is None:
        return None
    parts = text.split("x")
    if len(parts) > 2 or not all(part.isdigit() and int(part) > 0 for part in parts):
        raise UserError(f"--length {text}: expected tokens per text, such as 128, or per query and document, 32x128.")
    return Lengths(int(parts[0]), int(parts[-1]))


def _widths(recipe: Recipe, given: Sequence[str]) -> dict[str, int]:
    widths: dict[str, int] = {}
    for text in given:
        name, equals, number = text.rpartition("=")
        if not number.isdigit() or int(number) < 1 or (equals and name not in recipe.teachers):
            known = ", ".join(recipe.teachers) or "none"
            raise UserError(f"--teacher-width {text}: expected a number, or TEACHER=NUMBER. Teachers: {known}.")
        widths |= {teacher: int(number) for teacher in ([name] if equals else recipe.teachers)}
    return widths


def _width(config: TeacherConfig, name: str, store: Store | None, assumed: list[str]) -> int:
    """Width of a teacher's vectors: from the store, its folder, or assumed."""
    if store is not None and name in store.teachers:
        return store.teacher(name).width
    if config.truncate_dim is not None:
        return config.truncate_dim
    folder = Path(config.model)
    sizes = [_number(path, "out_features") for path in sorted(folder.glob("*_Dense/config.json"), reverse=True)]
    found = next((size for size in [*sizes, _number(folder / "config.json", "hidden_size")] if size), None)
    if found is None:
        assumed.append(
            f"vectors of teacher '{name}' have width {TEACHER_WIDTH}; set another with --teacher-width {name}=N"
        )
    return found or TEACHER_WIDTH


def _number(path: Path, key: str) -> int | None:
    if not path.is_file():
        return None
    value = json.loads(path.read_text(encoding="utf-8")).get(key)
    return value if isinstance(value, int) else None
