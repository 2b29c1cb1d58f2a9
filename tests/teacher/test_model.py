import numpy as np
import pytest

from jdistill.config import UserError
from jdistill.store import Prompted
from jdistill.teacher import Teacher
from tests.teacher.conftest import PROMPTS, TEXTS
from tests.tiny import tiny_bert_folder, tiny_static_folder


@pytest.fixture(scope="module")
def reference(folder):
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(folder), device="cpu")


@pytest.mark.parity
def test_vectors_are_those_of_sentence_transformers(config, reference):
    teacher = Teacher(config())
    for side, encode in (("query", reference.encode_query), ("document", reference.encode_document)):
        vectors = teacher.encode(TEXTS, side=side)
        assert (vectors.dtype, vectors.shape) == (np.float32, (len(TEXTS), 32))
        np.testing.assert_allclose(vectors, encode(TEXTS), atol=2e-6)
    assert np.abs(teacher.encode(TEXTS, side="query") - teacher.encode(TEXTS, side="document")).max() > 1e-2


@pytest.mark.parity
def test_prompts_of_the_configuration_replace_the_models_own_and_never_leak(config, reference, folder, tmp_path):
    teacher = Teacher(config(prompts={"query": "", "document": "bread "}))
    assert teacher.description["prompts"] == {"query": "", "document": "bread "}
    plain = reference.encode(TEXTS, prompt="")
    np.testing.assert_allclose(teacher.encode(TEXTS, side="query"), plain, atol=2e-6)
    prompted = reference.encode([f"bread {text}" for text in TEXTS], prompt="")
    np.testing.assert_allclose(teacher.encode(TEXTS, side="document"), prompted, atol=2e-6)


@pytest.mark.parity
def test_a_default_prompt_of_the_model_is_not_applied(tmp_path, reference):
    folder = tiny_bert_folder(tmp_path / "m", layers=2, prompts={"query": "dog: "})
    path = folder / "config_sentence_transformers.json"
    path.write_text(path.read_text().replace('"default_prompt_name": null', '"default_prompt_name": "query"'))
    from jdistill.teacher import TeacherConfig

    teacher = Teacher(TeacherConfig(model=str(folder), device="cpu"))
    assert teacher.description["prompts"] == {"query": "dog: ", "document": ""}
    np.testing.assert_allclose(teacher.encode(TEXTS), reference.encode(TEXTS, prompt=""), atol=2e-6)


def test_order_and_batches_change_nothing(config):
    teacher = Teacher(config())
    together = teacher.encode(TEXTS)
    for i in np.random.default_rng(0).permutation(len(TEXTS)):
        np.testing.assert_allclose(teacher.encode([TEXTS[i]])[0], together[i], atol=2e-6)
    mixed = [Prompted(side, PROMPTS[side], text) for text in TEXTS for side in ("document", "query")]
    counted = []
    vectors = teacher.encode_prompted(mixed, advance=counted.append)
    np.testing.assert_allclose(vectors[::2], together, atol=2e-6)
    np.testing.assert_allclose(vectors[1::2], teacher.encode(TEXTS, side="query"), atol=2e-6)
    assert sum(counted) == len(mixed)


def test_long_texts_share_a_batch_with_fewer_others(config, tmp_path):
    """64 texts padded to the 5,000 tokens of one of them would take gigabytes."""
    long = tiny_bert_folder(tmp_path / "long", layers=1, max_length=8192)
    teacher = Teacher(config(model=str(long), batch_size=64, prompts={"query": "", "document": ""}))
    texts = ["dog bread " * 2500, *["sea"] * 63]
    counted = []
    vectors = teacher.encode_prompted([Prompted("document", "", text) for text in texts], advance=counted.append)
    assert counted[0] <= 64 * 512 / 5000 + 1
    assert counted[1:] == [64 - counted[0]]
    np.testing.assert_allclose(vectors[0], teacher.encode(texts[:1])[0], atol=2e-6)
    counted.clear()
    capped = Teacher(config(max_length=32, batch_size=64))
    capped.encode_prompted([Prompted("document", "", text) for text in texts], advance=counted.append)
    assert counted == [64]


def test_normalisation_and_truncation(config):
    own = Teacher(config())
    assert own.description["normalize"] is True
    raw = Teacher(config(normalize=False))
    lengths = np.linalg.norm(raw.encode(TEXTS), axis=1)
    assert np.abs(lengths - 1).min() > 1e-2
    np.testing.assert_allclose(raw.encode(TEXTS) / lengths[:, None], own.encode(TEXTS), atol=2e-6)
    short = Teacher(config(truncate_dim=5))
    assert short.width == 5
    np.testing.assert_allclose(np.linalg.norm(short.encode(TEXTS), axis=1), 1, atol=1e-6)
    cosine = own.encode(TEXTS)[:, :5]
    np.testing.assert_allclose(short.encode(TEXTS), cosine / np.linalg.norm(cosine, axis=1, keepdims=True), atol=2e-6)
    np.testing.assert_allclose(Teacher(config(truncate_dim=5, normalize=False)).encode(TEXTS), raw.encode(TEXTS)[:, :5])


def test_a_model_that_does_not_normalise_can_be_made_to(tmp_path, config):
    folder = str(tiny_bert_folder(tmp_path / "m", layers=1, normalize=False))
    assert Teacher(config(model=folder)).description["normalize"] is False
    unit = Teacher(config(model=folder, normalize=True)).encode(TEXTS)
    np.testing.assert_allclose(np.linalg.norm(unit, axis=1), 1, atol=1e-6)


def test_max_length_cuts(config):
    teacher = Teacher(config(max_length=8))
    assert teacher.description["max_length"] == 8
    long, longer = "the cat sits near the big river", "the cat sits near the big river and sings"
    teacher = Teacher(config(max_length=8, prompts={"query": "", "document": ""}))
    np.testing.assert_array_equal(*teacher.encode([long, longer]))
    with pytest.raises(UserError, match=r"teachers.teacher: max_length is 65, but the model has 64 positions"):
        Teacher(config(max_length=65))


@pytest.mark.parametrize(("precision", "tolerance"), [("bfloat16", 3e-2), ("float16", 4e-3)])
def test_half_precision_is_near_and_still_of_unit_length(config, precision, tolerance):
    teacher = Teacher(config(precision=precision))
    vectors = teacher.encode(TEXTS)
    assert vectors.dtype == np.float32
    error = np.abs(vectors - Teacher(config()).encode(TEXTS)).max()
    assert 1e-6 < error < tolerance
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    assert teacher.description["precision"] == precision


@pytest.mark.parity
@pytest.mark.parametrize("layer", [0, 1, 2])
def test_vectors_of_an_earlier_layer_are_its_pooled_hidden_states(config, folder, layer):
    import torch
    from transformers import AutoTokenizer, BertModel

    inputs = AutoTokenizer.from_pretrained(folder)(TEXTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        hidden = BertModel.from_pretrained(folder)(**inputs, output_hidden_states=True).hidden_states[layer]
    mask = inputs["attention_mask"][:, :, None]
    pooled = torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=-1)
    teacher = Teacher(config(layer=layer, prompts={"query": "", "document": ""}))
    np.testing.assert_allclose(teacher.encode(TEXTS), pooled.numpy(), atol=2e-6)
    assert teacher.description["layer"] == layer


def test_every_side_of_a_router_ends_after_the_layer(tmp_path, config, folder):
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import Pooling, Router, Transformer

    def modules():
        return [Transformer(str(folder)), Pooling(32)]

    routed = SentenceTransformer(modules=[Router.for_query_document(modules(), modules())], device="cpu")
    routed.save(str(tmp_path / "m"), create_model_card=False)
    plain = config(layer=1, normalize=True, prompts={"query": "", "document": ""})
    expected = Teacher(plain).encode(TEXTS)
    teacher = Teacher(plain.model_copy(update={"model": str(tmp_path / "m")}))
    for side in ("query", "document"):
        np.testing.assert_allclose(teacher.encode(TEXTS, side=side), expected, atol=2e-6)


def test_a_layer_that_the_model_does_not_have_is_refused(tmp_path, config):
    with pytest.raises(UserError, match=r"teachers.x: layer is 3, but the model has 2 layers. Lower it."):
        Teacher(config(layer=3), name="x")
    static = str(tiny_static_folder(tmp_path / "m"))
    with pytest.raises(UserError, match=r"teachers.x: layer is 1, but the model is not a transformer"):
        Teacher(config(model=static, layer=1), name="x")


def test_a_static_model(tmp_path, config):
    teacher = Teacher(config(model=str(tiny_static_folder(tmp_path / "m"))))
    assert (teacher.width, teacher.description["max_length"], teacher.description["pooling"]) == (16, None, None)
    assert teacher.encode(TEXTS).shape == (len(TEXTS), 16)
    with pytest.raises(UserError, match="StaticEmbedding has no such limit"):
        Teacher(config(model=str(tmp_path / "m"), max_length=4))


def test_description_names_all_that_decides_the_vectors(config, folder):
    description = Teacher(config(dtype="float16")).description
    hashes = [description.pop(f"{part}_hash") for part in ("weight", "tokenizer", "config")]
    assert {len(hash_) for hash_ in hashes} == {64}
    assert len(set(hashes)) == 3
    assert description == {
        "model": str(folder),
        "revision": None,
        "prompts": PROMPTS,
        "layer": None,
        "pooling": "mean",
        "normalize": True,
        "max_length": 64,
        "truncate_dim": None,
        "precision": "float32",
        "routes": "shared",
        "dtype": "float16",
        "width": 32,
    }


def test_broken_vectors_name_their_text(config, monkeypatch):
    teacher = Teacher(config())
    forward = teacher._forward

    def broken(texts, side, prompt):
        vectors = forward(texts, side, prompt)
        vectors[[text == "music" for text in texts], 3] = np.nan
        return vectors

    monkeypatch.setattr(teacher, "_forward", broken)
    with pytest.raises(UserError, match="the vector of the query 'dog: music' is NaN or infinite"):
        teacher.encode(TEXTS, side="query")


def test_what_cannot_be_loaded_is_the_users_mistake(config, tmp_path):
    with pytest.raises(UserError, match=r"model './none': no such folder"):
        Teacher(config(model="./none"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"teachers.x: .*empty: has no model\.safetensors\. Expected a model's folder"):
        Teacher(config(model=str(tmp_path / "empty")), name="x")
    with pytest.raises(UserError, match="truncate_dim is 33, but the model's width is 32"):
        Teacher(config(truncate_dim=33))
    with pytest.raises(UserError, match="cannot be loaded"):
        Teacher(config(device="quantum"))
