"""The Recipe: the full config of one run, assembled from the packages' own sections.

Packages never see the recipe, only their own section. Constraints across sections are checked here, before any work.
"""

from pathlib import Path
from typing import Annotated

from pydantic import Field, model_validator

from jdistill.config import Config, PathText
from jdistill.data import SourceConfig
from jdistill.evaluate import Evaluator, FidelityConfig
from jdistill.export import ExportConfig
from jdistill.loader import LoaderConfig
from jdistill.losses import Loss
from jdistill.student import PruneConfig, StudentConfig
from jdistill.teacher import TeacherConfig
from jdistill.train import TrainConfig

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]


class Recipe(Config):
    """One distillation run: text, teachers, student, losses, training, evaluation, export."""

    name: Name = "student"
    """Name of the run and of the exported model."""
    seed: int = Field(42, ge=0, lt=2**63)
    """Seed of row order, dropout and random initialization."""
    store: PathText
    """Folder of texts and teacher vectors; written by `jdistill embed`, read by `jdistill train`."""
    run: PathText
    """Folder of checkpoints, metrics.jsonl and the resolved recipe."""
    data: dict[Name, SourceConfig] = Field(min_length=1)
    """Name -> source of texts."""
    teachers: dict[Name, TeacherConfig] = Field(default_factory=dict)
    """Name -> teacher model; losses refer to teachers by this name."""
    prune: PruneConfig | None = None
    """The trained model that `jdistill prune` makes smaller, after `embed` and before `train`, and what it cuts."""
    student: StudentConfig
    losses: dict[Name, Loss] = Field(min_length=1)
    """Name -> term of the training loss; the term is logged under this name."""
    loader: LoaderConfig = LoaderConfig()
    train: TrainConfig
    evaluate: dict[Name, Evaluator] = Field(default_factory=dict)
    """Name -> evaluation, run during training and by `jdistill evaluate`."""
    fidelity: FidelityConfig | None = FidelityConfig()
    """Comparison with the teachers' vectors on held-out rows, if there are any; null disables it."""
    export: ExportConfig | None = ExportConfig()
    """Options of `jdistill export`; null for a run that is not to be exported."""

    @model_validator(mode="after")
    def _terms_name_known_teachers(self) -> "Recipe":
        for name, term in self.losses.items():
            named = (term.teacher,) if isinstance(term.teacher, str) else term.teacher or ()
            for teacher in named:
                if teacher not in self.teachers:
                    known = ", ".join(self.teachers) or "none"
                    raise ValueError(f"losses.{name}.teacher: no teacher is called '{teacher}'. Known: {known}.")
            if term.needs().teacher and not named and len(self.teachers) != 1:
                known = f"there are several teachers ({', '.join(self.teachers)}); name one, or a list of them"
                problem = known if self.teachers else f"'{term.kind}' needs a teacher; add one under 'teachers'"
                raise ValueError(f"losses.{name}.teacher: {problem}.")
        return self

    @model_validator(mode="after")
    def _run_lies_outside_the_store(self) -> "Recipe":
        for key in ("store", "run"):
            if not getattr(self, key).strip():
                raise ValueError(f"{key}: is empty, expected a folder such as {key}s/{self.name}.")
        store, run = Path(self.store).resolve(), Path(self.run).resolve()
        if run == store or store in run.parents:
            raise ValueError(
                f"run: the folder {self.run} is the store ({self.store}) or inside it. Runs can share a store but need "
                f"a separate folder, such as runs/{self.name}."
            )
        return self

    @model_validator(mode="after")
    def _student_starts_from_what_is_pruned(self) -> "Recipe":
        if self.prune is None:
            return self
        if self.student.init is None or Path(self.student.init) != Path(self.prune.output):
            raise ValueError(
                f"student.init: is {self.student.init}, but jdistill prune writes the student's first weights to "
                f"prune.output, {self.prune.output}. Set both to the same folder, or remove the section 'prune'."
            )
        if self.prune.vocabulary is not None and self.student.tokenizer is not None:
            raise ValueError(
                "prune.vocabulary: rebuilds the tokenizer of prune.init, but student.tokenizer replaces it. Remove "
                "one of them."
            )
        return self

    @model_validator(mode="after")
    def _evaluations_leave_fidelity_its_names(self) -> "Recipe":
        for teacher in self.teachers if self.fidelity is not None else ():
            if f"fidelity_{teacher}" in self.evaluate:
                raise ValueError(
                    f"evaluate.fidelity_{teacher}: this name is reserved for the comparison with the teacher "
                    f"'{teacher}'. Choose another name, or set fidelity: null."
                )
        return self

    @model_validator(mode="after")
    def _some_data_trains(self) -> "Recipe":
        if all(source.role != "train" for source in self.data.values()):
            raise ValueError("data: every source has the role 'heldout'. At least one needs the role 'train'.")
        return self

    @model_validator(mode="after")
    def _what_is_cached_suffices(self) -> "Recipe":
        if self.student.backbone != "cached":
            return self
        if self.loader.packing is not None or self.loader.folding:
            asked = f"packing={self.loader.packing}" if self.loader.packing else "folding=true"
            raise ValueError(
                f"loader.{asked}: has no benefit with student.backbone 'cached', since the encoder does not run during "
                "training. Remove it."
            )
        for name, term in self.losses.items():
            if term.needs().layers:
                raise ValueError(
                    f"losses.{name}: '{term.kind}' reads earlier layers of the student, but student.backbone 'cached' "
                    "stores hidden states of the last layer only. Set student.backbone: frozen, or remove the term."
                )
        return self

    def terms(self) -> dict[str, Loss]:
        """The loss terms, with `teacher` filled in where there is only one teacher."""
        only = next(iter(self.teachers)) if len(self.teachers) == 1 else None
        return {
            name: term.model_copy(update={"teacher": term.teacher or only}) if term.needs().teacher else term
            for name, term in self.losses.items()
        }
