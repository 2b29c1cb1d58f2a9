import shutil
import subprocess
import sys

import pytest

from jdistill.config import UserError
from jdistill.teacher import Teacher, describe
from jdistill.teacher.describe import require_model, weight_hash


def test_what_the_configuration_fixes_agrees_with_the_loaded_model(config):
    for changes in (
        {},
        {"max_length": 9, "normalize": False, "truncate_dim": 8, "layer": 1, "prompts": {"query": "q"}},
    ):
        fixed = describe(config(**changes))
        full = Teacher(config(**changes)).description
        assert fixed["weight_hash"] == full["weight_hash"]
        assert fixed.pop("prompts").items() <= full["prompts"].items()
        assert fixed == {key: full[key] for key in fixed}
        assert set(changes) - {"prompts"} <= set(fixed)


def test_the_weight_hash_follows_the_weights_not_the_place(folder, tmp_path):
    moved = tmp_path / "moved"
    shutil.copytree(folder, moved)
    assert weight_hash(moved) == weight_hash(folder)
    data = bytearray((moved / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (moved / "model.safetensors").write_bytes(data)
    assert weight_hash(moved) != weight_hash(folder)
    (moved / "model.safetensors").unlink()
    assert weight_hash(moved) is None


def test_a_model_on_another_machine_is_described_without_its_weights(config):
    assert "weight_hash" not in describe(config(model="/not/here"))
    assert "weight_hash" not in describe(config(model="someone/not-cached"))


def test_missing_folder_guesses(config, folder):
    with pytest.raises(UserError, match=r"teachers.x: model '.*modell': no such folder. Did you mean '.*model'\?"):
        require_model(config(model=f"{folder}l"), where="teachers.x")


def test_describing_imports_no_torch(folder):
    code = (
        "import sys; from jdistill.teacher import TeacherConfig, describe, embed, Teacher;"
        f"assert 'weight_hash' in describe(TeacherConfig(model={str(folder)!r}));"
        "assert not {'torch', 'transformers', 'sentence_transformers', 'datasets', 'jax'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
