"""`jdistill prune`: from a trained model and the texts of a store to a smaller model, from which a student starts."""

from pathlib import Path
from typing import Any

import jax

from jdistill.config import UserError
from jdistill.export.files import read_marker
from jdistill.export.hf import export_model
from jdistill.recipe import Recipe
from jdistill.store import Store
from jdistill.student import Prompts, make_student
from jdistill.student.build import describe_size, read_pretrained
from jdistill.student.encoders import StaticConfig
from jdistill.student.pruning.config import PruneConfig
from jdistill.student.pruning.prune import check_poolings
from jdistill.student.pruning.prune import prune as prune_model
from jdistill.student.pruning.texts import PromptedIds, PruningTexts
from jdistill.student.student import encoder_shapes
from jdistill.train.resume import differences

ORIGIN = "prune"
"""Key of the settings in the marker file of the folder."""


def prune(recipe: Recipe) -> str:
    """Prune `prune.init` on the training texts of the store, and write it as a sentence-transformers folder.

    The folder holds the student before its first step: with the pooling, head, prompts and maximum length that
    `student:` sets or, by default, with those of the model. It is complete or absent.

    Returns:
      What was kept, and the sizes before and after, for the user.

    Raises:
      UserError: if there is no section `prune` or no store, the cuts do not fit the model, or the output folder has
        files that neither `jdistill prune` nor `jdistill export` wrote.
    """
    config = recipe.prune
    if config is None:
        raise UserError(
            "prune: this recipe has no section 'prune'. Add one with init, output and what to cut, such as "
            "prune: {init: MODEL, output: models/small, width: {to: 256}}, and set student.init to the output."
        )
    store = Store.open(recipe.store)
    encoder = recipe.student.encoder
    student = recipe.student.model_copy(
        update={
            "init": config.init,
            "revision": config.revision,
            "keep_layers": config.keep_layers,
            # Other kinds state the sizes of the pruned model.
            "encoder": encoder if isinstance(encoder, StaticConfig) else None,
            "lora": None,
        }
    )
    pretrained = read_pretrained(student)
    assert pretrained is not None
    texts = training_texts(recipe, store, student.prompts.resolved(pretrained.prompts))
    pruned = prune_model(config, student, pretrained, texts)
    # The pruned model already has its layers, encoder and tokenizer.
    remaining = student.model_copy(update={"keep_layers": None, "encoder": None, "tokenizer": None})
    made, params = make_student(remaining, teacher_widths={}, key=jax.random.key(recipe.seed), pretrained=pruned.model)
    check_poolings(made.config, params, where=pretrained.where)
    export_model(made, params, config.output, origin={ORIGIN: _settings(config)})
    before = describe_size({"encoder": encoder_shapes(pretrained.encoder)})
    return "\n".join(
        [
            f"Pruned {config.init} to {', '.join(pruned.kept)}.",
            f"{before} -> {describe_size(params)}.",
            f"Wrote {config.output}, from which jdistill train starts.",
        ]
    )


def training_texts(recipe: Recipe, store: Store, prompts: Prompts) -> PruningTexts:
    """The store's training texts with the student's prompts."""
    rows = store.rows("train")
    groups = [] if rows.queries is None else [PromptedIds(rows.queries, prompts.query)]
    return PruningTexts(store.texts.take, [*groups, PromptedIds(rows.documents, prompts.document)], seed=recipe.seed)


def check_pruned(recipe: Recipe) -> None:
    """Check that `jdistill prune` has written the model that the student starts from, with the same settings.

    Raises:
      UserError: if it has not.
    """
    if recipe.prune is None:
        return
    output = Path(recipe.prune.output)
    if not output.is_dir():
        raise UserError(
            f"student.init: {output} does not exist yet. Run jdistill prune with the same recipe first; it prunes the "
            "model of prune.init and writes this folder."
        )
    recorded = read_marker(output).get(ORIGIN)
    if recorded is None:
        raise UserError(
            f"student.init: {output} was not written by jdistill prune. Expected its output; without the section "
            "'prune', the student starts from the folder as it is."
        )
    if changed := differences({ORIGIN: recorded}, {ORIGIN: _settings(recipe.prune)}):
        raise UserError(
            f"student.init: {output} was pruned with other settings: {'; '.join(changed)}. Run jdistill prune again, "
            "or set prune to the settings of the folder."
        )


def _settings(config: PruneConfig) -> dict[str, Any]:
    """What determines the pruned model."""
    return config.model_dump(mode="json", exclude={"output"})
