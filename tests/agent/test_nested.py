"""Nested mappings by dotted keys."""

from agent.config.nested import differences, flatten


def test_keys_become_dotted_however_they_are_nested():
    assert flatten({"a": 1, "b": {"c": None, "d": {"e": [1]}}, "b.f": 2}) == {
        "a": 1,
        "b.c": None,
        "b.d.e": [1],
        "b.f": 2,
    }


def test_what_is_left_out_takes_all_below_it_along():
    tree = {"a": {"b": 1, "c": {"d": 2}}, "e": {"c": 3}}
    assert flatten(tree, without=("a.c",)) == {"a.b": 1, "e.c": 3}
    assert differences(tree, {"a": {"b": 4}, "e": {"c": 3}}, without=("a.c",)) == ["a.b=4 (was 1)"]
