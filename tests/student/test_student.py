"""The vectors of a student at its last layer, and at every earlier one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdistill.loader.packing import packed_rows, places
from jdistill.student import StudentConfig, make_student
from jdistill.types import Tokens
from tests.tiny import tiny_bert_folder, tiny_static_folder

LENGTHS = np.array([3, 9, 1, 12, 5, 7])
MASK = np.arange(14) < LENGTHS[:, None]
IDS = np.where(MASK, np.random.default_rng(0).integers(5, 40, MASK.shape), 0).astype(np.int32)
PADDED = Tokens(jnp.asarray(IDS), jnp.asarray(MASK))
PACKED = PADDED._replace(
    packed=jnp.asarray(places(LENGTHS, padded=14, rows=packed_rows(LENGTHS, 17), capacity=17)),
)


def student_of(folder, **options):
    return make_student(StudentConfig(init=str(folder), **options), teacher_widths={}, key=jax.random.key(0))


@pytest.mark.parity
@pytest.mark.parametrize("tokens", [PADDED, PACKED], ids=["padded", "packed"])
@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_layers_are_the_pooled_hidden_states_of_transformers(tmp_path, pooling, tokens):
    torch = pytest.importorskip("torch")
    from transformers import BertModel

    student, params = student_of(tiny_bert_folder(tmp_path, pooling=pooling))
    theirs = BertModel.from_pretrained(tmp_path).eval()
    mask = torch.tensor(MASK.astype(np.int64))
    with torch.no_grad():
        hidden = theirs(torch.tensor(IDS), attention_mask=mask, output_hidden_states=True).hidden_states
    assert len(hidden) == student.layers + 1 == 4
    vectors = jax.jit(lambda p, t: student.encode_layers(p, t, (0, 1, 2, 3)))(params, tokens)
    for layer, expected in enumerate(hidden):
        mean = (expected * mask[:, :, None]).sum(1) / mask.sum(1, keepdim=True)
        pooled = torch.nn.functional.normalize(mean if pooling == "mean" else expected[:, 0], dim=-1)
        np.testing.assert_allclose(vectors[layer], pooled.numpy(), atol=2e-6)


@pytest.mark.parametrize("tokens", [PADDED, PACKED], ids=["padded", "packed"])
def test_encode_is_the_last_layer(tmp_path, tokens):
    student, params = student_of(tiny_bert_folder(tmp_path))
    last = student.encode_layers(params, tokens, (1, 3))[3]
    np.testing.assert_array_equal(student.encode(params, tokens), last)


def test_a_layer_is_the_student_that_ends_there(tmp_path):
    folder = tiny_bert_folder(tmp_path)
    student, params = student_of(folder)
    shallow, shallow_params = student_of(folder, keep_layers=[0, 1])
    assert shallow.layers == 2
    np.testing.assert_array_equal(
        student.encode_layers(params, PADDED, (2,))[2], shallow.encode(shallow_params, PADDED)
    )


def test_a_layer_teaches_only_what_lies_before_it(tmp_path):
    student, params = student_of(tiny_bert_folder(tmp_path))
    cotangent = jnp.asarray(np.random.default_rng(1).normal(size=(len(LENGTHS), student.width)), jnp.float32)
    gradient = jax.grad(lambda p: jnp.sum(student.encode_layers(p, PADDED, (1, 3))[1] * cotangent))(params)
    reached = {i: float(jnp.abs(layer["up"]["kernel"]).max()) for i, layer in gradient["encoder"]["layers"].items()}
    assert reached["0"] > 0
    assert reached["1"] == reached["2"] == 0


def test_a_static_student_has_no_layers(tmp_path):
    student, params = student_of(tiny_static_folder(tmp_path))
    assert student.layers == 0
    vectors = student.encode_layers(params, PADDED, (0,))
    assert set(vectors) == {0}
    np.testing.assert_array_equal(vectors[0], student.encode(params, PADDED))
