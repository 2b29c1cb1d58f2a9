"""Weights of a folder: today's names, all files there and whole, numbers of a type that weights have."""

import json
import pickle

import numpy as np
import pytest

from jdistill.config import UserError
from jdistill.folders import check_tensors, read_tensors


def save(path, tensors):
    from safetensors.numpy import save_file

    save_file(tensors, path, metadata={"format": "pt"})


def test_first_names_of_norms_are_todays_and_buffers_are_left_out(tmp_path):
    gamma, beta, word = np.ones(2, np.float32), np.zeros(2, np.float16), np.full((2, 2), 3, np.float32)
    stored = {
        "bert.embeddings.LayerNorm.gamma": gamma,
        "bert.embeddings.LayerNorm.beta": beta,
        "bert.embeddings.position_ids": np.arange(4),
        "layers.0.rotary_emb.inv_freq": gamma,
        "gamma": word,
    }
    save(tmp_path / "model.safetensors", stored)
    check_tensors(tmp_path)
    found = read_tensors(tmp_path)
    assert set(found) == {"bert.embeddings.LayerNorm.weight", "bert.embeddings.LayerNorm.bias", "gamma"}
    np.testing.assert_array_equal(found["bert.embeddings.LayerNorm.weight"], gamma)
    np.testing.assert_array_equal(found["bert.embeddings.LayerNorm.bias"], beta)


def test_one_norm_under_both_names_is_refused(tmp_path):
    both = {"LayerNorm.gamma": np.ones(2, np.float32), "LayerNorm.weight": np.ones(2, np.float32)}
    save(tmp_path / "model.safetensors", both)
    with pytest.raises(UserError, match=r"contain LayerNorm\.weight twice"):
        read_tensors(tmp_path)


def test_several_files_with_an_index_and_the_single_one_before_them(tmp_path):
    save(tmp_path / "a.safetensors", {"a": np.ones(1, np.float32)})
    save(tmp_path / "b.safetensors", {"b": np.ones(1, np.float32)})
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "a.safetensors", "b": "b.safetensors"}}))
    assert set(read_tensors(tmp_path)) == {"a", "b"}
    (tmp_path / "b.safetensors").unlink()
    for read in (read_tensors, check_tensors):
        with pytest.raises(UserError, match=r"has no b\.safetensors, which model\.safetensors\.index\.json lists"):
            read(tmp_path)
    save(tmp_path / "model.safetensors", {"c": np.ones(1, np.float32)})
    assert set(read_tensors(tmp_path)) == {"c"}  # as transformers chooses


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({}, "has no weight_map"),
        ({"weight_map": {}}, "has no weight_map"),
        ({"weight_map": ["a"]}, "has no weight_map"),
        ({"weight_map": {"a": 1}}, "has no weight_map"),
        ({"weight_map": {"a": "../a.safetensors"}}, "expected names of files in the same folder"),
    ],
)
def test_an_index_that_names_no_files_is_refused(tmp_path, content, said):
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=said):
        check_tensors(tmp_path)


@pytest.mark.parametrize("name", ["float8_e4m3fn", "int8", "uint8", "int64", "bool", "complex64"])
def test_numbers_that_are_no_weights_are_refused(tmp_path, name):
    import torch
    from safetensors.torch import save_file

    tensors = {"words": torch.zeros(2, dtype=getattr(torch, name)), "fine": torch.zeros(2)}
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    for read in (read_tensors, check_tensors):
        with pytest.raises(UserError, match=r"1 of type \w+ \(words\)\. Expected F64, F32, F16, BF16"):
            read(tmp_path)


@pytest.mark.parametrize("kept", [0, 7, 40, 200])
def test_a_truncated_file_is_reported(tmp_path, kept):
    path = tmp_path / "model.safetensors"
    save(path, {"a": np.ones(64, np.float32)})
    path.write_bytes(path.read_bytes()[:kept])
    for read in (read_tensors, check_tensors):
        with pytest.raises(UserError, match=rf"model\.safetensors: damaged.*with {kept} bytes.*download it again"):
            read(tmp_path)


def test_a_note_of_git_lfs_is_known(tmp_path):
    (tmp_path / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    with pytest.raises(UserError, match="git lfs pull"):
        check_tensors(tmp_path)


def test_a_folder_without_weights_tells_what_is_there_instead(tmp_path):
    with pytest.raises(UserError, match=r"has no model\.safetensors\. Expected"):
        check_tensors(tmp_path)
    (tmp_path / "tf_model.h5").touch()
    with pytest.raises(UserError, match=r"only tf_model\.h5"):
        check_tensors(tmp_path)


def test_pickles_are_read_as_the_safetensors_of_the_same_tensors(tmp_path):
    import torch

    tensors = {"a": torch.randn(3, 2), "LayerNorm.gamma": torch.randn(2).bfloat16(), "x.position_ids": torch.arange(3)}
    torch.save({"a": tensors["a"]}, tmp_path / "pytorch_model-1.bin")
    torch.save({k: v for k, v in tensors.items() if k != "a"}, tmp_path / "pytorch_model-2.bin")
    parts = {k: f"pytorch_model-{1 if k == 'a' else 2}.bin" for k in tensors}
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": parts}))
    check_tensors(tmp_path)
    found = read_tensors(tmp_path)
    assert set(found) == {"a", "LayerNorm.weight"}
    np.testing.assert_array_equal(found["a"], tensors["a"].numpy())
    np.testing.assert_array_equal(found["LayerNorm.weight"], tensors["LayerNorm.gamma"].float().numpy())
    (tmp_path / "pytorch_model-2.bin").unlink()
    with pytest.raises(UserError, match=r"has no pytorch_model-2\.bin"):
        check_tensors(tmp_path)


class Runs:
    def __reduce__(self):
        return (open, ("/nowhere/it-ran", "w"))


def test_a_pickle_with_code_is_refused_and_does_not_run(tmp_path):
    import torch

    torch.save({"a": Runs()}, tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"more than tensors.*Use a folder with safetensors"):
        check_tensors(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(pickle.dumps({"a": Runs()}))
    with pytest.raises(UserError, match=r"pytorch_model\.bin: cannot be read as weights"):
        check_tensors(tmp_path)


def test_pickles_that_hold_no_weights_are_refused(tmp_path):
    import torch

    path = tmp_path / "pytorch_model.bin"
    for content, said in (
        ([torch.zeros(1)], "expected a dict of tensors"),
        ({"a": 1}, "expected a dict of tensors"),
        ({"a": torch.zeros(2, dtype=torch.int8)}, r"1 of type int8 \(a\)"),
    ):
        torch.save(content, path)
        with pytest.raises(UserError, match=said):
            read_tensors(tmp_path)
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(UserError, match=r"cannot be read as weights, 300 bytes.*download it again"):
        read_tensors(tmp_path)


def test_without_torch_the_command_that_converts_is_named(tmp_path, monkeypatch):
    (tmp_path / "pytorch_model.bin").touch()
    monkeypatch.setitem(__import__("sys").modules, "torch", None)
    with pytest.raises(UserError, match=r"jdistill convert .* NEW_FOLDER"):
        read_tensors(tmp_path)


def test_a_torch_whose_pickles_may_run_code_is_refused(tmp_path, monkeypatch):
    import torch

    torch.save({"a": torch.zeros(1)}, tmp_path / "pytorch_model.bin")
    monkeypatch.setattr(torch, "__version__", "2.5.1+cpu")
    with pytest.raises(UserError, match=r"torch 2\.5\.1\+cpu can run code.*'torch>=2\.6'"):
        read_tensors(tmp_path)
