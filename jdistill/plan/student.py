"""The student of a plan: architecture and parameter shapes, without weights or tokenizer.

A local model is read as by `jdistill train`. Of a hub model, only config.json is read; if the hub is unreachable, the
sizes stated under `student.encoder` are used.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp

from jdistill.config import UserError
from jdistill.student import Student, StudentConfig, make_student
from jdistill.student.config import Architecture
from jdistill.student.encoders import MODEL_TYPES, Encoder, StaticConfig
from jdistill.student.head import head_width, init_head
from jdistill.student.lora import make_lora
from jdistill.student.pooling import pooled_width
from jdistill.student.pooling_and_head import chosen_head, chosen_pooling, pooling_params, projected, sees_prompt
from jdistill.student.pruning.config import Cuts
from jdistill.student.pruning.layers import kept_layers
from jdistill.student.pruning.sizes import cut_encoder
from jdistill.student.student import encoder_shapes
from jdistill.student.tokenizer import Tokenizer

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
    if config.init is not None and Path(config.init).is_dir():
        whole = config.model_copy(update=dict.fromkeys(Cuts._fields))
        student, params = make_student(whole, teacher_widths=teacher_widths, key=jax.random.key(0))
        if not config.cuts.any:
            return PlannedStudent(student, jax.tree.map(_shape, params), [])
        architecture, assumed = _cut(config, student.config)
        return _planned(config, architecture, teacher_widths, student.tokenizer, assumed)
    encoder, assumed = _encoder(config)
    encoder, cut = _smaller(config, encoder)
    pooling = chosen_pooling(config, encoder, None, ())
    architecture = Architecture(
        encoder=encoder,
        pooling=pooling,
        include_prompt=sees_prompt(config, encoder, pooling, None),
        head=chosen_head(config, encoder, pooling, None),
        max_length=config.max_length or encoder.max_positions,
        prompts=config.prompts.resolved({}),
        projections={},
        dropout=config.dropout,
        dtype=config.dtype,
        attention=config.attention,
        remat=config.remat,
        scan_layers=config.scan_layers,
        backbone=config.backbone,
        lora=config.lora,
    )
    return _planned(config, architecture, teacher_widths, None, assumed + cut)


def _planned(
    config: StudentConfig,
    architecture: Architecture,
    teacher_widths: Mapping[str, int],
    tokenizer: Tokenizer | None,
    assumed: list[str],
) -> PlannedStudent:
    """The planned student with the parameter shapes of an architecture."""
    encoder, pooling = architecture.encoder, architecture.pooling
    pooled = pooled_width(pooling, encoder)
    width = head_width(architecture.head, pooled)
    chosen = projected(config, width, pooling, teacher_widths)
    architecture = architecture.model_copy(update={"projections": chosen})
    params: dict[str, Any] = {"encoder": encoder_shapes(architecture)}
    if config.lora is not None:
        lora = config.lora
        params["lora"] = jax.eval_shape(lambda: make_lora(lora, params["encoder"], jax.random.key(0)))
    for name, initial in (
        ("pooling", lambda: pooling_params(pooling, encoder, None, jax.random.key(0))),
        ("head", lambda: init_head(architecture.head, pooled, jax.random.key(0))),
    ):
        if shapes := jax.eval_shape(initial):
            params[name] = shapes
    if chosen:
        params["projection"] = {
            teacher: {
                "kernel": jax.ShapeDtypeStruct((width, wide), jnp.float32),
                "bias": jax.ShapeDtypeStruct((wide,), jnp.float32),
            }
            for teacher, wide in chosen.items()
        }
    return PlannedStudent(Student(architecture, cast(Any, tokenizer)), params, assumed)


def _cut(config: StudentConfig, whole: Architecture) -> tuple[Architecture, list[str]]:
    """The architecture after pruning, and assumptions about it."""
    encoder, assumed = _smaller(config, whole.encoder)
    changes: dict[str, Any] = {"encoder": encoder}
    if config.head is not None:
        changes["head"] = chosen_head(config, encoder, whole.pooling, None)
    return whole.model_copy(update=changes), assumed


def _smaller(config: StudentConfig, encoder: Encoder) -> tuple[Encoder, list[str]]:
    vocabulary = config.vocabulary
    assumed = []
    if vocabulary is not None:
        assumed.append("texts have as many tokens as with the full vocabulary")
    if vocabulary is not None and vocabulary.size is None:
        assumed.append(
            f"all {encoder.vocab_size:,} tokens are kept; how many occur {vocabulary.min_count} times is unknown"
        )
    return cast(Encoder, cut_encoder(encoder, config.cuts)), assumed


def _shape(x: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(x.shape, x.dtype)


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
