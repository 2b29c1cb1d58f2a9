"""LoRA: value and gradient against torch, what is learned, and that merging changes no vector."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jdistill
from jdistill.config import UserError, parse
from jdistill.export.hf import export_model
from jdistill.losses import EmbedCosine
from jdistill.model import Model
from jdistill.plan import planned_student
from jdistill.student import Student, StudentConfig, load_architecture, make_student, to_hf_tensors
from jdistill.student.lora import LoraConfig, make_lora, merge_lora
from jdistill.student.student import encoder_shapes
from jdistill.train.groups import Groups, Settings, frozen_paths
from jdistill.types import Tokens
from tests.tiny import SENTENCES, tiny_bert_folder
from tests.train.tiny_run import run

CONFIG = {"rank": 3, "alpha": 6.0, "targets": [".*/query/kernel", "layers/1/up/kernel"]}
SCALE = 2.0
TEXTS = [*SENTENCES[:4]]
"""Of one padded length, so that each model is compiled once."""
PATHS = ("layers/0/query/kernel", "layers/1/query/kernel", "layers/1/up/kernel")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bert_folder(tmp_path_factory.mktemp("source"), hidden=16, layers=2, heads=2, max_length=32)


def student_of(folder: Path, **options: Any) -> tuple[Student, Any]:
    config = parse(StudentConfig, {"init": str(folder), "lora": CONFIG, **options}, where="x.yaml")
    return make_student(config, teacher_widths={"big": 6}, key=jax.random.key(0))


def moved(params: Any) -> Any:
    """The same after some training, of which nothing is known but that B is no longer zero."""
    random = np.random.default_rng(0)
    lora = jax.tree.map(lambda x: x + jnp.asarray(random.normal(size=x.shape) / 5, jnp.float32), params["lora"])
    return {**params, "lora": lora}


def at(tree: Any, path: str) -> Any:
    for name in path.split("/"):
        tree = tree[name]
    return tree


def test_before_the_first_step_nothing_is_added(folder: Path) -> None:
    student, params = student_of(folder)
    plain = StudentConfig(init=str(folder))
    expected = Model(*make_student(plain, teacher_widths={"big": 6}, key=jax.random.key(0))).encode(TEXTS)
    np.testing.assert_array_equal(Model(student, params).encode(TEXTS), expected)
    a, b = at(params["lora"], PATHS[0]).values()
    assert (a.shape, b.shape, a.dtype, b.dtype) == ((16, 3), (3, 16), jnp.float32, jnp.float32)
    assert not b.any()
    assert 0.2 < np.abs(a).max() <= 16**-0.5


def test_a_is_uniform_and_differs_between_matrices() -> None:
    encoder = {str(i): {"kernel": jax.ShapeDtypeStruct((400, 8), jnp.float32)} for i in range(2)}
    lora = make_lora(LoraConfig(rank=50, targets=[".*"]), encoder, jax.random.key(0))  # pyright: ignore
    first, second = (np.asarray(lora[i]["kernel"]["a"]) for i in "01")
    assert abs(first.std() * 400**0.5 - 3**-0.5) < 0.01  # as torch's kaiming_uniform_(a=sqrt(5)) of [50, 400]
    assert abs(np.corrcoef(first.ravel(), second.ravel())[0, 1]) < 0.03


@pytest.mark.parity
def test_value_and_gradient_equal_torch(folder: Path) -> None:
    """Torch's own BERT with `W + alpha / rank B A` written into its weights, mean pooling, and the square of a sum."""
    torch = pytest.importorskip("torch")
    from transformers import BertModel

    student, params = student_of(folder)
    params = moved(params)
    ids = np.random.default_rng(1).integers(5, 60, (4, 9)).astype(np.int32)
    mask = np.arange(9) < np.array([[9], [4], [2], [7]])
    weight = np.random.default_rng(2).normal(size=(4, 16)).astype(np.float32)

    def ours(lora: Any) -> Any:
        vectors = student.encode({**params, "lora": lora}, Tokens(jnp.asarray(ids), jnp.asarray(mask)))
        return (vectors * weight).sum(), vectors

    (value, vectors), gradient = jax.jit(jax.value_and_grad(ours, has_aux=True))(params["lora"])

    bert = BertModel.from_pretrained(folder, add_pooling_layer=False, attn_implementation="eager").eval()
    names = [
        "encoder.layer.0.attention.self.query.weight",
        "encoder.layer.1.attention.self.query.weight",
        "encoder.layer.1.intermediate.dense.weight",
    ]
    theirs = {
        path: {name: torch.tensor(np.array(x).T, requires_grad=True) for name, x in at(params["lora"], path).items()}
        for path in PATHS
    }
    merged = dict(bert.named_parameters())
    for name, pair in zip(names, theirs.values(), strict=True):
        merged[name] = merged[name].detach() + SCALE * pair["b"] @ pair["a"]
    inputs = {"input_ids": torch.tensor(ids.astype(np.int64)), "attention_mask": torch.tensor(mask.astype(np.int64))}
    hidden = torch.func.functional_call(bert, merged, kwargs=inputs).last_hidden_state
    expanded = inputs["attention_mask"][:, :, None].float()
    expected = torch.nn.functional.normalize((hidden * expanded).sum(1) / expanded.sum(1), dim=-1)
    loss = (expected * torch.tensor(weight)).sum()
    loss.backward()

    np.testing.assert_allclose(vectors, expected.detach().numpy(), atol=1e-5)
    assert float(value) == pytest.approx(float(loss.detach()), abs=1e-5)
    largest = max(float(x.grad.abs().max()) for pair in theirs.values() for x in pair.values())
    for path in PATHS:
        for name, x in at(gradient, path).items():
            np.testing.assert_allclose(x, theirs[path][name].grad.numpy().T, atol=1e-5 * largest)
    assert largest > 0.1


def test_merged_vectors_are_the_same_in_a_run_folder_and_in_an_export(tmp_path: Path, folder: Path) -> None:
    """A run learns the additions and nothing of the encoder; loading and exporting merge them."""
    student, params = student_of(folder)
    terms = {"align": EmbedCosine(teacher="big")}
    result = run(tmp_path / "run", (student, params), terms=terms, evaluate=None, steps=4, save_every=2, devices=1)
    jax.tree.map(np.testing.assert_array_equal, result.params["encoder"], params["encoder"])
    change = jax.tree.map(lambda a, b: float(np.abs(a - b).max()), result.params["lora"], params["lora"])
    assert min(jax.tree.leaves(change)) > 1e-4

    expected = Model(student, result.params).encode(TEXTS)
    loaded = jdistill.load(tmp_path / "run")
    assert (loaded.student.config.lora, "lora" in loaded.params) == (None, False)
    np.testing.assert_allclose(loaded.encode(TEXTS), expected, atol=1e-6)
    assert load_architecture(tmp_path / "run" / "architecture").config == student.config

    for name, (exported, values) in {"a": (loaded.student, loaded.params), "b": (student, result.params)}.items():
        export_model(exported, values, tmp_path / name)
        np.testing.assert_allclose(jdistill.load(tmp_path / name).encode(TEXTS), expected, atol=1e-6)
    before = Model(student, params).encode(TEXTS)
    assert np.abs(before - expected).max() > 1e-3
    assert to_hf_tensors(student, params).keys() == to_hf_tensors(loaded.student, loaded.params).keys()


def test_only_the_additions_and_what_stands_behind_the_encoder_learn(folder: Path) -> None:
    student, params = student_of(folder)
    groups = Groups(weight_decay=0.01, frozen=frozen_paths(student))
    trained, frozen = groups.split({"student": params})
    assert trained["student"].keys() == {"lora", "projection"}
    assert frozen["student"].keys() == {"encoder"}
    settings = groups.settings(trained)["student"]["lora"]
    assert at(settings, PATHS[0]) == {"a": Settings(1.0, 0.01), "b": Settings(1.0, 0.01)}


def test_matrices_that_are_no_target_are_untouched(folder: Path) -> None:
    student, params = student_of(folder)
    params = moved(params)
    merged = merge_lora(student.config.lora, params)
    assert merged.keys() == params.keys() - {"lora"}
    for (path, before), after in zip(
        jax.tree.leaves_with_path(params["encoder"]), jax.tree.leaves(merged["encoder"]), strict=True
    ):
        name = "/".join(key.key for key in path)
        added = np.asarray(after, np.float64) - before
        expected = np.zeros(before.shape)
        if name in PATHS:
            pair = {key: np.asarray(x, np.float64) for key, x in at(params["lora"], name).items()}
            expected = SCALE * pair["a"] @ pair["b"]
            assert np.abs(expected).max() > 0.1
        np.testing.assert_allclose(added, expected, atol=1e-6)


def test_queries_and_values_are_the_default(folder: Path) -> None:
    lora = student_of(folder, lora={})[1]["lora"]
    assert {layer: {*parts} for layer, parts in lora["layers"].items()} == {i: {"query", "value"} for i in "01"}
    assert at(lora, PATHS[0])["a"].shape == (16, 16)


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (
            ["layers/0/up/kernel", "query/kernel", ".*/bias"],
            r"student\.lora\.targets: 'query/kernel' and '\.\*/bias' match no matrix of the encoder\..* Matrices: "
            r"layers/\\d\+/down/kernel, .*layers/\\d\+/value/kernel\.$",
        ),
        ([], r"lora\.targets: is \[\]"),
        (["("], r"lora\.targets\.0: is '\('; .*valid regular expression"),
    ],
)
def test_targets_without_a_matrix_are_refused(folder: Path, targets: list[str], message: str) -> None:
    content = {"init": str(folder), "lora": {"targets": targets}}
    with pytest.raises(UserError, match=message):
        make_student(parse(StudentConfig, content, where="x"), teacher_widths={}, key=jax.random.key(0))


def test_an_encoder_without_matrices_is_refused() -> None:
    words = {"words": jax.ShapeDtypeStruct((9, 4), jnp.float32)}
    with pytest.raises(UserError, match=r"This encoder has none; remove student\.lora\."):
        make_lora(LoraConfig(), words, jax.random.key(0))


def test_a_plan_knows_of_it(folder: Path) -> None:
    student, params = student_of(folder)
    encoder = student.config.encoder.model_dump()
    config = parse(StudentConfig, {"init": "no/model", "encoder": encoder, "lora": CONFIG}, where="x.yaml")
    planned = planned_student(config, {"big": 6})
    assert planned.student.config.frozen == ("encoder/.*",)
    assert jax.tree.map(jnp.shape, planned.params) == jax.tree.map(jnp.shape, params)
    assert jax.tree.structure(encoder_shapes(student.config.encoder)) == jax.tree.structure(params["encoder"])
