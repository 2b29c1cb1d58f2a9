"""`jdistill export`: from a run folder to a verified sentence-transformers folder."""

import importlib.metadata
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from huggingface_hub import try_to_load_from_cache

from jdistill import checkpoint
from jdistill.config import UserError, apply_overrides, parse
from jdistill.evaluate import Fidelity
from jdistill.export import CardInfo, ExportConfig, TeacherInfo, write_card
from jdistill.export.card import model_name
from jdistill.export.hf import export_model
from jdistill.export.reference import reference_vectors
from jdistill.export.verify import PROBES, Verification, verify
from jdistill.model import Model, load
from jdistill.papers import Papers
from jdistill.recipe import Recipe
from jdistill.store import Store, check_teacher
from jdistill.student.hf_folder import module_files
from jdistill.student.pooling import PoolingModule, names_of
from jdistill.teacher import TeacherConfig, describe
from jdistill.verbs.evaluate import recorded
from jdistill.verbs.show import run_recipe
from jdistill.yaml_text import write_yaml

Results = Mapping[str, Mapping[str, float]]

SPECIAL_TOKENS = 8
"""Number of special tokens compared as texts; some tokenizers have thousands of similar ones."""

HELDOUT_TEXTS = 32
"""Number of held-out texts compared, besides the probes."""


def export(run: str, out: str, overrides: Sequence[str] = (), *, results: Results | None = None) -> Verification | None:
    """Write a run's student as a sentence-transformers folder, and verify that it gives the same vectors.

    Args:
      run: run folder.
      out: folder to write; an earlier export there is replaced.
      overrides: `key=value` overrides of the recipe's `export` section.
      results: model -> metric -> value for the card; default: the metrics evaluated during training.

    Returns:
      The verification; None if sentence-transformers is not installed.

    Raises:
      UserError: if `run` is not a run folder, or `out` exists and is not an export.
      UserError: if the exported folder's vectors differ by more than the tolerance; an earlier export is kept.
    """
    recipe, model = run_recipe(run), load(run)
    options = parse(
        ExportConfig, apply_overrides((recipe.export or ExportConfig()).model_dump(), overrides), where="export"
    )
    files = module_files(model.student.config.pooling)
    verifications = list[Verification]()

    def check(fresh: Path) -> None:
        texts = [*PROBES, *_special_texts(model), *_heldout_texts(recipe)]
        expected = reference_vectors(model, texts, projection=options.projection, teacher=options.teacher)
        # Verified in a temporary folder; the report names the final one.
        found = replace(verify(fresh, texts, expected, tolerance=options.tolerance, module_files=files), folder=out)
        if not found.passed:
            raise UserError(
                f"export: nothing was written (an earlier export at {out} is unchanged), because the exported model "
                f"differs from the trained student: {' '.join(str(found).split())}. Raise export.tolerance to accept "
                "the difference."
            )
        verifications.append(found)

    folder = export_model(
        model.student,
        model.params,
        Path(out),
        projection=options.projection,
        teacher=options.teacher,
        check=check if _installed("sentence-transformers") else None,
    )
    verification = verifications[0] if verifications else None
    try:
        shown = results if results is not None else _named(recorded(run), recipe.name)
        write_card(folder, _card(recipe, run, model, options, verification, shown))
    except Exception as error:  # the model is usable without its card
        reason = f"{type(error).__name__}: {error}"
        print(f"warning: {out} is complete, but its README.md could not be written ({reason}).", file=sys.stderr)
    return verification


def _special_texts(model: Model) -> list[str]:
    """Texts that contain special tokens, which some tokenizers parse as special and others as words."""
    names = model.student.tokenizer.special_names[:SPECIAL_TOKENS]
    return [text for name in names for text in (name, f"before {name} after")]


def _heldout_texts(recipe: Recipe) -> list[str]:
    if not Path(recipe.store, "manifest.json").is_file():
        return []  # the store is on another machine
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
    origin = recipe.student.init if recipe.prune is None else recipe.prune.init
    result = checkpoint.load_result(run) or {}
    size = sum(x.size for x in _leaves({k: v for k, v in model.params.items() if k != "projection"}))
    training: dict[str, Any] = {
        "steps": result.get("step", "unfinished"),
        "rows per step": recipe.train.global_batch_size,
        "optimizer": recipe.train.optimizer.kind,
        "peak learning rate": recipe.train.optimizer.peak_lr,
        "schedule": recipe.train.schedule.kind,
        "seed": recipe.seed,
    }
    if result.get("best_step") is not None:
        training["best step"] = result["best_step"]
    if recipe.train.ema is not None:
        training["moving average of parameters"] = f"decay {recipe.train.ema.decay:g}"
    if "averaged_steps" in result:
        training["average of checkpoints"] = f"steps {', '.join(map(str, result['averaged_steps']))}"
    if recipe.train.early_stopping is not None:
        stopping = recipe.train.early_stopping
        how = f"{stopping.metric}, patience {stopping.patience}"
        training["early stopping"] = how + (", ended the run" if "stopped_early" in result else ", did not end the run")
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
        papers=_papers(recipe, model),
        training=training,
        results=results,
        tasks={name: evaluator.task for name, evaluator in recipe.evaluate.items()}
        | {f"fidelity_{name}": Fidelity.task for name in recipe.teachers},
        prompts=model.student.prompts.model_dump(),
        sparse=model.student.sparse,
        own_modules=[file.name for file in module_files(model.student.config.pooling)],
        initialised_from=origin,
        base_model=_hub_id(origin),
        max_difference=None if verification is None else verification.max_difference,
        versions=_versions(),
        recipe=write_yaml(_without_places(recipe.model_dump(mode="json"))),
    )


def _papers(recipe: Recipe, model: Model) -> Papers:
    """Works to cite: of the losses, of how they were trained, and of the poolings."""
    terms = recipe.terms().values()
    grad_cache = recipe.train.microbatches > 1 and any(term.needs().batch for term in terms)
    poolings = [each for each in model.student.config.pooling if isinstance(each, PoolingModule)]
    return (
        *(paper for term in terms for paper in term.cited()),
        *(["arXiv:2101.06983"] if grad_cache else []),
        *(["arXiv:2106.09685"] if recipe.student.lora is not None else []),
        *(paper for pooling in poolings for paper in pooling.cited()),
    )


def _hub_id(model: str | None) -> str | None:
    """The model's hub id, if it is in the hub's cache; by its form alone it could be a relative path."""
    if model is None or not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", model) or Path(model).exists():
        return None
    files = ("config.json", "modules.json", "tokenizer.json")
    return model if any(isinstance(try_to_load_from_cache(model, name), str) for name in files) else None


def _width(model: Model, options: ExportConfig) -> int:
    """Width of the exported vectors."""
    if options.projection == "drop":
        return model.student.width
    projections = model.student.config.projections
    return projections[options.teacher] if options.teacher else next(iter(projections.values()))


def _teachers(recipe: Recipe) -> list[TeacherInfo]:
    made = Path(recipe.store, "manifest.json").is_file()
    store = Store.open(recipe.store) if made else None
    return [_teacher(store, name, config) for name, config in recipe.teachers.items()]


def _teacher(store: Store | None, name: str, config: TeacherConfig) -> TeacherInfo:
    """The teacher as described by the store, or by the recipe if the store has no or another such teacher.

    Imported vectors get neither revision nor hash, since their weights were never seen.
    """
    named = TeacherInfo(name, config.model, config.revision)
    if store is None or name not in store.teachers:
        return named
    try:
        vectors = store.teacher(name)
        _require_taught(store, name, config)
    except UserError:  # rebuilt since the run, for other texts or with another model
        return named
    described = vectors.manifest["description"]
    model = described.get("model") or config.model
    if vectors.origin is not None or not described.get("weight_hash"):
        return TeacherInfo(name, model, vectors="imported")
    return TeacherInfo(name, model, described.get("revision"), described["weight_hash"], "embedded")


def _require_taught(store: Store, name: str, config: TeacherConfig) -> None:
    """Raise UserError if the store's teacher is not the recipe's.

    File hashes are compared only if the names differ: files of a model of the same name may have changed since.
    """
    expected = describe(config)
    if store.teacher(name).manifest["description"].get("model") == config.model:
        expected = {key: value for key, value in expected.items() if not key.endswith("_hash")}
    check_teacher(store, name, expected)


_PLACES = ("store", "run", "path", "output")
"""Settings that name a file or folder."""

_MODELS = ("model", "init", "tokenizer", "dataset")
"""Settings that name a folder or a hub id."""


def _without_places(value: Any, key: str = "") -> Any:
    """A recipe's content with local paths reduced to their last component; hub ids stay."""
    if isinstance(value, dict):
        return {name: _without_places(item, name) for name, item in value.items()}
    if isinstance(value, list):
        return [_without_places(item) for item in value]
    if not isinstance(value, str):
        return value
    return Path(value).name if key in _PLACES else model_name(value) if key in _MODELS else value


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
