import pytest

from jdistill.config import UserError
from jdistill.store import check_teacher, check_width
from tests.store.conftest import description, embed


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"weight_hash": "def"}, 'weight_hash is "abc" in the store and "def" now'),
        ({"weight_hash": "def", "model": "other"}, 'model is "fake" in the store and "other" now; weight_hash is'),
        ({"weight_hash": "def", "revision": "r2"}, 'revision is "r1" in the store and "r2" now; weight_hash is'),
        (
            {"prompts": {"query": "Q ", "document": "D "}},
            'prompts.document is "" in the store and "D " now; prompts.query is',
        ),
        ({"max_length": 8}, "max_length is 16 in the store and 8 now"),
        ({"normalize": True}, "normalize is false in the store and true now"),
        ({"dtype": "float16"}, 'dtype is "float32" in the store and "float16" now'),
        ({"width": 12}, "width is 6 in the store and 12 now"),
    ],
)
def test_each_differing_field_is_named_with_both_values(make_store, changed, message):
    store = make_store()
    embed(store, "t")
    with pytest.raises(UserError) as refused:
        check_teacher(store, "t", dict(sorted(description(**changed).items())))
    text = str(refused.value)
    assert f"store at {store.path}: the vectors of teacher 't' have other settings: " in text
    assert all(part in text for part in message.split("; "))
    assert "choose another teacher name or store" in text
    assert "\n" not in text


def test_equal_weights_may_lie_elsewhere_and_unknown_fields_are_not_compared(make_store):
    store = make_store()
    embed(store, "t")
    check_teacher(store, "t", description(model="moved/here", revision=None, something="new"))
    check_teacher(store, "t", {"prompts": {"query": "query: "}})


def test_missing_teacher_is_refused(make_store):
    with pytest.raises(UserError, match=r"has no teacher 't'. It has: none. Run `jdistill embed`"):
        check_teacher(make_store(), "t", {})


def test_width_is_compared_with_the_student(make_store):
    store = make_store()
    embed(store, "t")
    check_width(store, "t", 6)
    with pytest.raises(UserError, match=r"has width 6, but the student's width is 4 and student.projection is 'none'"):
        check_width(store, "t", 4)
