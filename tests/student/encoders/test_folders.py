"""From a Hugging Face folder to a student and back; texts encoded as by sentence-transformers: every encoder."""

import json
import re
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

import jdistill
from jdistill.config import UserError
from jdistill.export.hf import export_model
from jdistill.folders import read_tensors
from jdistill.student import StudentConfig, make_student, weights
from jdistill.student.encoders import MODEL_TYPES
from tests.student.encoders.cases import CASES, TYPES
from tests.student.encoders.measure import (
    SIDES,
    architecture,
    config_json,
    expected,
    params_of,
    tensors_of,
    tokens_of,
    torch_model,
)
from tests.tiny import SENTENCES, write_modules

pytestmark = pytest.mark.parity

TEXTS = [*SENTENCES, "the cat " * 60, "Ünïcödé 🙂"]


def _write(folder: Path, config: dict[str, Any], tensors: dict[str, np.ndarray]) -> Path:
    (folder / "config.json").write_text(json.dumps(config))
    save_file({name: np.ascontiguousarray(x) for name, x in tensors.items()}, folder / "model.safetensors")
    return folder


def _states(model: Any, label: str, side: Any) -> np.ndarray:
    import torch

    tokens = tokens_of(label, side)
    mask = torch.tensor(np.asarray(tokens.mask, np.int64))
    with torch.no_grad():
        out = model(torch.tensor(np.asarray(tokens.ids)), attention_mask=mask, output_hidden_states=True)
    return torch.stack(out.hidden_states).numpy() * np.asarray(tokens.mask)[None, :, :, None]


@pytest.mark.parametrize("label", CASES)
def test_the_way_back_gives_the_same_model(label: str, tmp_path: Path) -> None:
    from transformers import AutoModel

    config, theirs = architecture(label), tensors_of(label)
    mine = weights.to_hf(config.weights(), params_of(config, theirs))
    ignored = {name for name in theirs if any(re.fullmatch(pattern, name) for pattern in config.hf_ignored)}
    assert set(mine) == set(theirs) - ignored
    for name, tensor in mine.items():
        np.testing.assert_array_equal(tensor, theirs[name], err_msg=name)

    _write(tmp_path, config.to_hf(), mine)
    model, info = AutoModel.from_pretrained(tmp_path, attn_implementation="eager", output_loading_info=True)
    assert type(model) is type(torch_model(label))
    assert set(info["missing_keys"]) <= ignored
    assert not info["unexpected_keys"]
    for side in SIDES:
        np.testing.assert_array_equal(_states(model, label, side), expected(label, side).hidden)


@pytest.mark.parametrize(("label", "head"), [(label, head) for label in TYPES.values() for head in CASES[label].heads])
def test_a_checkpoint_with_a_task_head_gives_its_encoder(label: str, head: str, tmp_path: Path) -> None:
    import transformers

    model = getattr(transformers, f"AutoModelFor{head}").from_config(torch_model(label).config)
    model.base_model.load_state_dict(torch_model(label).state_dict(), strict=False)
    model.save_pretrained(tmp_path)
    hf, tensors = json.loads((tmp_path / "config.json").read_text()), read_tensors(tmp_path)
    config = MODEL_TYPES[hf["model_type"]].from_hf(hf, where="folder")
    assert config == architecture(label)
    plain = params_of(config, tensors_of(label))
    jax.tree.map(np.testing.assert_array_equal, params_of(config, tensors), plain)
    with pytest.raises(UserError, match=r"1 tensors that this architecture does not have \(foreign\.weight\)"):
        params_of(config, {**tensors, "foreign.weight": np.zeros(1, np.float32)})


@pytest.mark.parametrize(
    ("label", "changes", "message"), [(label, *refused) for label in TYPES.values() for refused in CASES[label].refused]
)
def test_unsupported_variants_are_refused(label: str, changes: dict[str, Any], message: str) -> None:
    hf = config_json(label) | changes
    with pytest.raises(UserError, match=message):
        MODEL_TYPES[hf["model_type"]].from_hf(hf, where="config.json")


@pytest.mark.parametrize("label", TYPES.values())
def test_kept_layers_are_a_model_of_their_own(label: str, tmp_path: Path) -> None:
    from transformers import AutoModel

    config, keep = architecture(label), CASES[label].keep
    params = params_of(config, tensors_of(label))
    small, kept = config.keep_layers(params, keep)
    assert small.depth == len(keep)
    assert set(kept["layers"]) == {str(i) for i in range(len(keep))}
    for i, layer in enumerate(keep):
        jax.tree.map(np.testing.assert_array_equal, kept["layers"][str(i)], params["layers"][str(layer)])
    _write(tmp_path, small.to_hf(), weights.to_hf(small.weights(), kept))
    _, info = AutoModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["unexpected_keys"]
    for wrong in ([config.depth], []):
        with pytest.raises(UserError, match=f"{config.depth} layers"):
            config.keep_layers(params, wrong)


@pytest.mark.parametrize("label", TYPES.values())
def test_texts_are_encoded_as_by_sentence_transformers(label: str, tmp_path: Path) -> None:
    sentence_transformers = pytest.importorskip("sentence_transformers")
    case = CASES[label]
    torch_model(label).save_pretrained(tmp_path)
    case.vocabulary().write(tmp_path, max_length=case.max_length)
    write_modules(tmp_path, architecture(label).width, (case.pooling,), normalize=True)
    theirs = sentence_transformers.SentenceTransformer(str(tmp_path), device="cpu")
    model = jdistill.load(tmp_path)
    assert model.student.max_length == theirs.max_seq_length == case.max_length
    np.testing.assert_allclose(model.encode(TEXTS), theirs.encode(TEXTS), atol=1e-5)

    student, params = make_student(StudentConfig(init=str(tmp_path)), teacher_widths={}, key=jax.random.key(0))
    assert student.config == model.student.config
    jax.tree.map(np.testing.assert_array_equal, params, model.params)

    exported = export_model(student, params, tmp_path / "exported")
    again = sentence_transformers.SentenceTransformer(str(exported), device="cpu")
    assert again.max_seq_length == case.max_length
    np.testing.assert_allclose(again.encode(TEXTS), theirs.encode(TEXTS), atol=1e-6)
