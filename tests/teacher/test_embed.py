import numpy as np
import pytest

from jdistill.config import UserError
from jdistill.store import Store, check_teacher, verify
from jdistill.teacher import Teacher, describe, embed
from tests.store.killed import hashes


def test_every_text_of_the_store_is_embedded_with_the_prompt_of_its_side(store, config):
    embed(config(shard_rows=4), store.path, name="tiny")
    store = Store.open(store.path)
    assert store.teachers == ("tiny",)
    assert verify(store) == []
    vectors, rows, teacher = store.teacher("tiny"), store.rows("train"), Teacher(config())
    for ids, side in ((rows.queries, "query"), (rows.documents.reshape(-1), "document")):
        want = teacher.encode(store.texts.take(ids), side=side)
        np.testing.assert_allclose(vectors.take(ids, side), want, atol=2e-6)
    check_teacher(store, "tiny", describe(config()))


def test_jobs_share_the_shards_and_the_last_completes(store, config, caplog):
    config = config(shard_rows=2)
    for job in range(3):
        assert store.teachers == ()
        embed(config, store.path, name="shared", shards=(job, 3))
    assert "shards remain for other jobs" in caplog.text
    embed(config, store.path, name="alone")
    assert store.teachers == ("alone", "shared")
    teachers = store.path / "teachers"
    assert hashes(teachers / "shared") == hashes(teachers / "alone")


def test_a_killed_run_resumes_and_repeats_nothing(store, config, monkeypatch):
    config = config(shard_rows=3)
    embed(config, store.path, name="alone")
    encode, calls = Teacher.encode_prompted, []

    def killed(self, texts, **options):
        calls.append(len(texts))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return encode(self, texts, **options)

    monkeypatch.setattr(Teacher, "encode_prompted", killed)
    with pytest.raises(KeyboardInterrupt):
        embed(config, store.path, name="killed")
    assert store.teachers == ("alone",)
    embed(config, store.path, name="killed")
    assert len(calls) == 1 + len(list((store.path / "teachers/killed/shards").glob("*.json")))
    assert hashes(store.path / "teachers/killed") == hashes(store.path / "teachers/alone")


def test_a_complete_teacher_is_compared_not_loaded(store, config, monkeypatch):
    embed(config(), store.path, name="tiny")
    monkeypatch.setattr(Teacher, "__init__", lambda *arguments, **options: pytest.fail("the model was loaded"))
    embed(config(batch_size=1), store.path, name="tiny")
    with pytest.raises(UserError, match=r"have other settings: .*dtype is \"float32\" in the store and \"int8\" now"):
        embed(config(dtype="int8"), store.path, name="tiny")
    with pytest.raises(UserError, match=r"prompts.query is \"dog: \" in the store and \"cat: \" now"):
        embed(config(prompts={"query": "cat: "}), store.path, name="tiny")


def test_a_store_is_needed(tmp_path, config):
    with pytest.raises(UserError, match="does not exist"):
        embed(config(), tmp_path / "none", name="tiny")
