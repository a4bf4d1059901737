"""The log of decisions in SQLite and in a real PostgreSQL."""

from __future__ import annotations

import concurrent.futures
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.decisions.decision import Decision, Feedback
from agent.decisions.store import DecisionStore, Written, absolute_url
from agent.errors import ConfigError, StoreError
from tests.postgres import postgres, why_not


def decision(request_id: str, position: int = 0, *, agent: str = "a", time: float = 100.0, text: str = "x") -> Decision:
    return Decision(agent, request_id, position, time, "d" * 64, "anna", text, '[{"label":"good"}]', 0.25, "epsilon")


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path_factory.mktemp('log') / 'decisions.db'}"
        return
    if why := why_not():
        pytest.skip(why)
    with postgres() as server:
        yield server.url


@pytest.fixture
def store(url: str) -> Iterator[DecisionStore]:
    found = DecisionStore(url)
    found.delete_before(1e12)
    yield found
    found.close()


def test_what_was_written_is_read_as_it_was_in_the_order_of_time(store: DecisionStore) -> None:
    late, early = decision("late", time=2.5, text="Ünïcode 😀\n"), decision("early", time=1.5)
    assert store.write([late, early]) == Written(2, 0, 0)
    assert [logged.decision for logged in store.read()] == [early, late]
    assert [logged.decision.id for logged in store.read(since=2)] == ["late"]
    assert store.find("a", "late", 0) == (late, None)


def test_a_decision_counts_once_however_often_it_is_written(store: DecisionStore) -> None:
    store.write([decision("one", text="first")])
    assert store.write([decision("one", text="second"), decision("two"), decision("one", 1)]) == Written(2, 1, 0)
    found = store.find("a", "one", 0)
    assert found is not None
    assert found.decision.text == "first"


def test_a_value_that_the_database_refuses_costs_no_other_decision(store: DecisionStore, url: str) -> None:
    written = store.write([decision("one"), decision("nul", text="a\0b"), decision("two"), decision("one")])
    refused = int(url.startswith("postgresql"))  # SQLite takes NUL characters
    assert written == Written(3 - refused, 1, refused)


def test_agents_that_share_a_log_have_their_own_decisions(store: DecisionStore) -> None:
    store.write([decision("one", agent="a"), decision("one", agent="b")])
    assert store.find("c", "one", 0) is None
    assert [logged.decision.agent for logged in store.read("b")] == ["b"]


def test_the_first_feedback_on_a_decision_stays(store: DecisionStore) -> None:
    one = decision("one")
    store.write([one])
    first, second = Feedback(5.0, "anna", 0.75, None), Feedback(6.0, "bruno", None, '{"label":"bad"}')
    assert store.give(one, first) is None
    assert store.give(one, second) == first
    assert store.find("a", "one", 0) == (one, first)
    assert [logged.feedback for logged in store.read()] == [first]


def test_of_feedback_at_the_same_moment_one_is_taken(store: DecisionStore, url: str) -> None:
    one = decision("one")
    store.write([one])
    stores = [DecisionStore(url) for _ in range(4)]
    with concurrent.futures.ThreadPoolExecutor(8) as threads:
        given = [threads.submit(stores[n % 4].give, one, Feedback(float(n), "", n / 16, None)) for n in range(16)]
        taken = [future.result() for future in given].count(None)
    for other in stores:
        other.close()
    assert taken == 1


def test_processes_that_make_the_tables_at_once_do_not_hinder_each_other(url: str, tmp_path: Path) -> None:
    place = url if url.startswith("postgresql") else f"sqlite:///{tmp_path / 'new.db'}"
    stores = [DecisionStore(place) for _ in range(6)]
    with concurrent.futures.ThreadPoolExecutor(6) as threads:
        written = list(threads.map(lambda pair: pair[1].write([decision(f"new-{pair[0]}")]).new, enumerate(stores)))
    for other in stores:
        other.close()
    assert written == [1] * 6


def test_a_request_is_deleted_with_its_feedback(store: DecisionStore) -> None:
    store.write([decision("one", 0), decision("one", 1), decision("two")])
    store.give(decision("one", 1), Feedback(5.0, "", 1.0, None))
    assert store.delete("one") == 2
    assert [logged.decision.id for logged in store.read()] == ["two"]
    store.write([decision("one", 1)])
    assert store.find("a", "one", 1) == (decision("one", 1), None)


def test_what_is_older_than_a_time_is_deleted_with_its_feedback(store: DecisionStore) -> None:
    store.write([decision("old", time=1.0), decision("new", time=3.0)])
    for request_id in ("old", "new"):
        store.give(decision(request_id), Feedback(5.0, "", 1.0, None))
    assert store.delete_before(3.0) == 1
    assert [(logged.decision.id, logged.feedback is None) for logged in store.read()] == [("new", False)]
    store.write([decision("old", time=4.0)])
    assert store.find("a", "old", 0) == (decision("old", time=4.0), None)


def test_a_deleted_text_is_not_left_in_the_file(tmp_path: Path) -> None:
    file = tmp_path / "decisions.db"
    store = DecisionStore(f"sqlite:///{file}")
    store.write([decision("one", text="a secret that nobody else writes")])
    store.delete("one")
    store.close()
    with sqlite3.connect(file) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    assert all(b"a secret" not in path.read_bytes() for path in tmp_path.iterdir())


def test_a_server_that_stops_is_named_and_used_again_when_it_is_back() -> None:
    if why := why_not():
        pytest.skip(why)
    with postgres() as server:
        store = DecisionStore(server.url)
        store.write([decision("before")])
        server.stop()
        try:
            with pytest.raises(StoreError, match=r"postgresql\+psycopg://postgres@127"):
                store.write([decision("during")])
        finally:
            server.start()
        assert store.write([decision("during"), decision("before")]) == Written(1, 1, 0)
        store.close()


def test_the_file_is_its_owners_alone(tmp_path: Path) -> None:
    store = DecisionStore(f"sqlite:///{tmp_path / 'decisions.db'}")
    store.write([decision("one")])
    assert {file.stat().st_mode & 0o077 for file in tmp_path.iterdir()} == {0}
    store.close()


def test_a_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    (tmp_path / "text.db").write_text("no database at all, but long enough to have a head" * 10)
    for place in (tmp_path / "text.db", tmp_path / "absent" / "decisions.db"):
        with pytest.raises(StoreError, match=place.name):
            DecisionStore(f"sqlite:///{place}").write([decision("one")])


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("decisions.db", "no address"),
        ("sqlite://", "names no file"),
        ("sqlite:///:memory:", "names no file"),
        ("mysql://host/db", "mysql"),
        ("postgresql+nothing://host/db", "postgresql.nothing"),
        ("postgresql+pg8000://host/db", "pg8000"),
    ],
)
def test_an_address_that_cannot_be_used_is_refused_with_those_that_can(url: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        DecisionStore(url)
    assert "sqlite:///FILE" in caught.value.allowed + caught.value.remedy or "pip install" in caught.value.remedy


def test_passwords_are_not_shown() -> None:
    store = DecisionStore("postgresql+psycopg://anna:secret@127.0.0.1:1/db")
    with pytest.raises(StoreError) as caught:
        store.delete("one")
    assert "secret" not in str(caught.value)
    assert "secret" not in store.place


def test_an_sqlite_file_keeps_its_place_whatever_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert absolute_url("sqlite:///decisions.db") == f"sqlite:///{tmp_path}/decisions.db"
    remote = "postgresql+psycopg://anna:secret@host/db"
    assert absolute_url(remote) == remote
