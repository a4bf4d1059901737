"""The file of API keys, and what a key may use."""

from __future__ import annotations

import hashlib
import logging
import pickle
from pathlib import Path

import pytest

from agent.errors import ConfigError, RequestError
from serving.middleware.api_keys import ApiKeys, AuthConfig
from serving.scheduling.rate_limit import RateLimit
from serving.scheduling.refusals import RateLimitError

ANNA, BRUNO, CHIDI = "a" * 16, "B0b-._~+/=" * 3, "0123456789abcdef"


def write(path: Path, text: str) -> ApiKeys:
    path.write_text(text)
    return ApiKeys(AuthConfig(keys_file=str(path)))


def test_several_keys_stand_at_once_and_are_known_by_name_or_by_the_beginning_of_a_hash(tmp_path: Path) -> None:
    keys = write(tmp_path / "keys", f"# ours\n\n  anna: {ANNA}\nanna: {CHIDI}\n{BRUNO}\n")
    assert keys.check(ANNA) == keys.check(CHIDI) == "anna"
    assert keys.check(BRUNO) == "key-" + hashlib.sha256(BRUNO.encode()).hexdigest()[:8]


@pytest.mark.parametrize(
    ("presented", "status"),
    [(None, 401), ("", 401), (ANNA[:-1], 403), (ANNA + "a", 403), ("anna", 403), ("é" * 16, 403), ("\udcff\x00", 403)],
)
def test_a_missing_key_is_401_and_a_wrong_one_403(tmp_path: Path, presented: str | None, status: int) -> None:
    keys = write(tmp_path / "keys", f"anna: {ANNA}\n")
    with pytest.raises(RequestError) as caught:
        keys.check(presented)
    assert caught.value.status == status
    assert caught.value.allowed
    assert caught.value.remedy
    assert ANNA not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "holds no key"),
        ("# nothing\n\n", "holds no key"),
        ("short-secret", "line 1 of"),
        (f"{ANNA}\nname with spaces: {CHIDI}", "line 2 of"),
        (f"{ANNA} # theirs", "line 1 of"),
        (f"anna: {ANNA}\nbruno: {ANNA}", "of another name"),
        (f"{ANNA}\n\x00{BRUNO}", "line 2 of"),
    ],
)
def test_a_file_that_is_no_good_is_refused_without_a_word_of_its_keys(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        write(tmp_path / "keys", text)
    told = str(caught.value)
    assert "Remedy" in told
    assert not any(secret in told for secret in (ANNA, BRUNO, CHIDI, "short-secret"))


def test_a_file_that_is_not_there_or_no_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        ApiKeys(AuthConfig(keys_file=str(tmp_path / "none")))
    (tmp_path / "keys").write_bytes(b"\xff\xfe" + ANNA.encode())
    with pytest.raises(ConfigError, match="no UTF-8"):
        ApiKeys(AuthConfig(keys_file=str(tmp_path / "keys")))


def test_keys_are_swapped_as_kubernetes_swaps_secrets(tmp_path: Path) -> None:
    for number, key in enumerate((ANNA, BRUNO)):
        (tmp_path / f"..{number}").mkdir()
        (tmp_path / f"..{number}" / "keys").write_text(f"anna: {key}\n")
    data, file = tmp_path / "..data", tmp_path / "keys"
    data.symlink_to("..0")
    file.symlink_to("..data/keys")
    keys = ApiKeys(AuthConfig(keys_file=str(file)))
    (tmp_path / "new").symlink_to("..1")
    (tmp_path / "new").rename(data)
    keys.look()
    assert keys.check(BRUNO) == "anna"
    with pytest.raises(RequestError):
        keys.check(ANNA)


@pytest.mark.parametrize("text", ["", "short", None])
def test_a_file_that_breaks_leaves_the_keys_as_they_were_and_says_so_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, text: str | None
) -> None:
    file = tmp_path / "keys"
    keys = write(file, f"anna: {ANNA}\n")
    if text is None:
        file.unlink()
    else:
        file.write_text(text)
    with caplog.at_level(logging.ERROR):
        keys.look()
        keys.look()
    assert keys.check(ANNA) == "anna"
    assert caplog.text.count("the keys stay as they were") == 1
    file.write_text(f"bruno: {BRUNO}\n")
    keys.look()
    assert keys.check(BRUNO) == "bruno"


def test_memory_holds_no_key_in_clear(tmp_path: Path) -> None:
    keys = write(tmp_path / "keys", f"anna: {ANNA}\n")
    assert ANNA not in repr(vars(keys))


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_an_allowance_lets_a_burst_through_and_then_what_flows_in() -> None:
    clock = Clock()
    allowance = RateLimit(10, 20, clock)
    for _ in range(20):
        allowance.take(1)
    with pytest.raises(RateLimitError) as caught:
        allowance.take(1)
    assert (caught.value.status, caught.value.retry_after_s) == (429, 1)
    clock.now += 0.5
    for _ in range(5):
        allowance.take(1)
    with pytest.raises(RateLimitError):
        allowance.take(1)
    clock.now += 3600
    for _ in range(20):
        allowance.take(1)
    with pytest.raises(RateLimitError):
        allowance.take(1)


def test_a_request_larger_than_the_burst_is_served_and_paid_for_afterwards() -> None:
    clock = Clock()
    allowance = RateLimit(10, 20, clock)
    allowance.take(100)
    with pytest.raises(RateLimitError) as caught:
        allowance.take(1)
    assert caught.value.retry_after_s == 9
    clock.now += 8.0
    with pytest.raises(RateLimitError):
        allowance.take(1)
    clock.now += 0.2
    allowance.take(1)


def test_what_is_given_back_can_be_taken_again() -> None:
    allowance = RateLimit(1, 5, Clock())
    allowance.take(5)
    allowance.give_back(5)
    allowance.take(1)


def test_a_rate_limit_error_survives_pickling() -> None:
    error = pickle.loads(pickle.dumps(RateLimitError("used up", allowed="2 texts/s", retry_after_s=3)))
    assert (error.retry_after_s, error.allowed, error.status) == (3, "2 texts/s", 429)


@pytest.mark.parametrize("wrong", [{"texts_per_s": 5}, {"keys_file": "k", "texts_per_s": 1, "burst_texts": 0.5}])
def test_a_limit_that_cannot_be_kept_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="texts"):
        AuthConfig.model_validate(wrong)
