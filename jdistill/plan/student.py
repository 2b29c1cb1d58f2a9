"""The student of a plan: architecture and parameter shapes, without weights or tokenizer.

A local model is read as by `jdistill train`. Of a hub model, only config.json is read; if the hub is unreachable, the
sizes stated under `student.encoder` are used.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, cast

import jax

from jdistill.config import UserError
from jdistill.student import Student, StudentConfig
from jdistill.student.build import check_tokenizer_fits, init_params, read_pretrained, resolve, student_tokenizer
from jdistill.student.encoders import MODEL_TYPES, Encoder, StaticConfig
from jdistill.student.pruning.selection import kept_layers

MAX_LENGTH = 512
"""Tokens per text if neither config nor encoder have a limit."""


class PlannedStudent(NamedTuple):
    """A student without weights."""

    student: Student
    """Its tokenizer is None if not available; plans tokenize no text."""
    params: dict[str, Any]
    """Shapes instead of arrays."""
    assumed: list[str]
    """Assumptions, one sentence each."""


def planned_student(config: StudentConfig, teacher_widths: Mapping[str, int]) -> PlannedStudent:
    """The student described by a config, if possible without reading weights.

    Args:
      config: the `student:` section.
      teacher_widths: teacher -> width of its vectors, for every teacher that may need a projection.

    Raises:
      UserError: if the student's sizes cannot be determined.
    """
    pretrained, tokenizer, assumed = None, None, []
    if config.init is not None and Path(config.init).is_dir():
        pretrained = read_pretrained(config)
        tokenizer = student_tokenizer(config, pretrained)
    else:  # only the sizes matter, so the student is planned as one with random weights
        encoder, assumed = _encoder(config)
        config = config.model_copy(update={"init": None, "keep_layers": None, "encoder": encoder})
    architecture = resolve(config, pretrained, tokenizer, teacher_widths)
    if tokenizer is not None:
        check_tokenizer_fits(architecture, tokenizer)
    params = jax.eval_shape(lambda: init_params(config, architecture, pretrained, jax.random.key(0)))
    return PlannedStudent(Student(architecture, cast(Any, tokenizer)), params, assumed)


def _encoder(config: StudentConfig) -> tuple[Encoder, list[str]]:
    """The encoder's sizes, from the config or from the `config.json` of the hub model."""
    if config.init is None:
        assert config.encoder is not None  # required by StudentConfig
        return config.encoder, _vocabulary(config)
    stated = config.encoder is not None and len(config.encoder.model_fields_set - {"kind"}) > 0
    if stated and config.encoder is not None:
        return config.encoder, [f"the student has the sizes stated under student.encoder; {config.init} was not read"]
    encoder = _from_hub(config.init, config.revision)
    if config.encoder is not None and config.encoder.kind == "static" and encoder.kind != "static":
        table = StaticConfig(vocab_size=encoder.vocab_size, hidden_size=encoder.width)
        return table, [f"the table has the sizes of the word embeddings of {config.init}"]
    if config.keep_layers is not None and encoder.depth:
        encoder = cast(Encoder, encoder.with_layers(kept_layers(config.keep_layers, encoder.depth)))
    head = "mean pooling and normalization unless configured otherwise"
    return encoder, [f"only config.json of {config.init} was read: {head}"]


def _vocabulary(config: StudentConfig) -> list[str]:
    assert config.encoder is not None
    if "vocab_size" in config.encoder.model_fields_set:
        return []
    return [f"a vocabulary of {config.encoder.vocab_size:,} tokens; the tokenizer {config.tokenizer} was not read"]


def _from_hub(name: str, revision: str | None) -> Encoder:
    from huggingface_hub import hf_hub_download

    try:
        path = hf_hub_download(name, "config.json", revision=revision, etag_timeout=5)
    except Exception as error:  # network, cache, permissions or unknown id, as the library's message says
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(
            f"student.init: {name} is not a folder, and downloading its config.json from the Hugging Face hub failed "
            f"({reason}). Set its sizes, such as student.encoder.kind=bert student.encoder.num_hidden_layers=6, or use "
            "a folder."
        ) from error
    hf = json.loads(Path(path).read_text(encoding="utf-8"))
    kind = hf.get("model_type")
    if kind not in MODEL_TYPES:
        raise UserError(
            f"student.init: {name} is a model of type {kind!r}, which is not supported. "
            f"Supported: {', '.join(MODEL_TYPES)}."
        )
    return cast(Encoder, MODEL_TYPES[kind].from_hf(hf, where=name))
