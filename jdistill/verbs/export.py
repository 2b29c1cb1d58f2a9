"""`jdistill export`: run folder to verified sentence-transformers folder."""

import importlib.metadata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jdistill import checkpoint
from jdistill.config import apply_overrides, dump_yaml, parse
from jdistill.export import CardInfo, ExportConfig, TeacherInfo, write_card
from jdistill.export.hf import export_model, needs_own_modules
from jdistill.export.reference import reference_vectors
from jdistill.export.verify import PROBES, Verification, verify
from jdistill.model import Model, load
from jdistill.recipe import Recipe
from jdistill.store import Store
from jdistill.student.pooling import names_of
from jdistill.verbs.evaluate import recorded
from jdistill.verbs.show import run_recipe

Results = Mapping[str, Mapping[str, float]]

HELDOUT_TEXTS = 32
"""How many held-out texts are compared, besides the probes."""


def export(run: str, out: str, overrides: Sequence[str] = (), *, results: Results | None = None) -> Verification | None:
    """Write a run's student as a sentence-transformers folder, and compare what the folder gives with the student.

    Args:
      run: run folder.
      out: folder to write; an earlier export there is replaced.
      overrides: `key=value` over the recipe's `export` section.
      results: model -> metric -> value for the card; by default what evaluation measured during training.

    Returns:
      The comparison; None where sentence-transformers is not installed, so that nothing was compared.

    Raises:
      UserError: if `run` is no run folder, or `out` holds something else.
      RuntimeError: if the exported folder's vectors differ by more than the tolerance.
    """
    recipe, model = run_recipe(run), load(run)
    options = parse(ExportConfig, apply_overrides(recipe.export.model_dump(), overrides), where="export")
    folder = export_model(
        model.student, model.params, Path(out), projection=options.projection, teacher=options.teacher
    )
    verification = None
    if _installed("sentence-transformers"):
        texts = [*PROBES, *_heldout_texts(recipe)]
        expected = reference_vectors(model, texts, projection=options.projection, teacher=options.teacher)
        verification = verify(folder, texts, expected, tolerance=options.tolerance)
    shown = results if results is not None else _named(recorded(run), recipe.name)
    write_card(folder, _card(recipe, run, model, options, verification, shown))
    if verification is not None and not verification.passed:
        raise RuntimeError(str(verification))
    return verification


def _heldout_texts(recipe: Recipe) -> list[str]:
    if not Path(recipe.store, "manifest.json").is_file():
        return []  # the store stayed on another machine
    store = Store.open(recipe.store)
    role = "heldout" if "heldout" in store.roles else "train"
    return store.texts.take(store.rows(role).documents[:HELDOUT_TEXTS, 0])


def _named(evaluations: Results, name: str) -> Results:
    names = {"before": f"{name} before training", "after": name}
    return {names[when]: metrics for when, metrics in evaluations.items()}


def _card(
    recipe: Recipe,
    run: str,
    model: Model,
    options: ExportConfig,
    verification: Verification | None,
    results: Results,
) -> CardInfo:
    encoder = model.student.config.encoder
    result = checkpoint.load_result(run) or {}
    size = sum(x.size for x in _leaves({k: v for k, v in model.params.items() if k != "projection"}))
    training: dict[str, Any] = {
        "steps": result.get("step", "unfinished"),
        "rows per step": recipe.train.global_batch_size,
        "optimizer": recipe.train.optimizer.kind,
        "peak learning rate": recipe.train.optimizer.peak_lr,
        "schedule": recipe.train.optimizer.schedule,
        "seed": recipe.seed,
    }
    if result.get("best_step") is not None:
        training["best step"] = result["best_step"]
    return CardInfo(
        name=recipe.name,
        teachers=_teachers(recipe),
        width=_width(model, options),
        max_length=model.student.config.max_length,
        architecture={
            "encoder": encoder.kind,
            "parameters": f"{size / 1e6:.2f} M",
            "pooling": " + ".join(names_of(model.student.config.pooling)),
            "head": ", ".join(module.kind for module in model.student.config.head) or "none",
            "projection": options.projection,
        },
        losses={name: term.model_dump(mode="json") for name, term in recipe.terms().items()},
        training=training,
        results=results,
        kinds={name: evaluator.kind for name, evaluator in recipe.evaluate.items()}
        | {f"fidelity_{name}": "fidelity" for name in recipe.teachers},
        prompts=model.student.prompts.model_dump(),
        sparse=model.student.sparse,
        own_modules=needs_own_modules(model.student),
        initialised_from=recipe.student.init,
        max_difference=None if verification is None else verification.max_difference,
        versions=_versions(),
        recipe=dump_yaml(recipe),
    )


def _width(model: Model, options: ExportConfig) -> int:
    """Width of the exported vectors."""
    if options.projection == "drop":
        return model.student.width
    projections = model.student.config.projections
    return projections[options.teacher] if options.teacher else next(iter(projections.values()))


def _teachers(recipe: Recipe) -> list[TeacherInfo]:
    made = Path(recipe.store, "manifest.json").is_file()
    known = Store.open(recipe.store) if made else None
    infos = []
    for name, config in recipe.teachers.items():
        stored = known.teacher(name).manifest["description"] if known and name in known.teachers else {}
        infos.append(
            TeacherInfo(name, config.model, stored.get("revision") or config.revision, stored.get("weight_hash"))
        )
    return infos


def _leaves(tree: Any) -> list[Any]:
    import jax

    return jax.tree.leaves(tree)


def _installed(package: str) -> bool:
    try:
        importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _versions() -> dict[str, str]:
    packages = ("jdistill", "jax", "flax", "optax", "torch", "transformers", "sentence-transformers")
    return {name: importlib.metadata.version(name) for name in packages if _installed(name)}
