"""Seeds over HTTP: of texts and conversations, whole and streamed, beside callers who give none."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from huggingface_hub import InferenceClient

from tests.serving.api.test_http_app import post

TEXT = "oslo to lima in pune"
TALK = [{"role": "user", "content": "anna went to"}]
DRAWN = {"temperature": 5.0, "max_new_tokens": 16}


@pytest.fixture(autouse=True)
def online(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)


def write(url: str, **parameters: Any) -> str:
    response = post(url, {"inputs": TEXT, "parameters": DRAWN | parameters})
    assert response.status_code == 200, response.text
    found: str = response.json()[0]["generated_text"]
    return found


def test_a_seed_is_the_same_text_beside_any_others_and_no_seed_another_each_time(talker_url: str) -> None:
    wanted = write(talker_url, seed=11)
    with ThreadPoolExecutor(6) as pool:
        free = [pool.submit(write, talker_url) for _ in range(12)]
        seeded = [pool.submit(write, talker_url, seed=11) for _ in range(4)]
        others = [pool.submit(write, talker_url, seed=seed) for seed in (12, -11)]
        assert {call.result() for call in seeded} == {wanted}
        assert len({wanted, *(call.result() for call in others)}) == 3
        assert len({call.result() for call in free}) > 6  # one in eighteen is empty


def test_a_seed_is_the_same_for_the_client_of_hugging_face_whole_and_streamed(talker_url: str) -> None:
    client = InferenceClient(model=talker_url)
    whole = client.text_generation(TEXT, **DRAWN, seed=11, details=True)
    assert whole.generated_text == write(talker_url, seed=11)
    assert whole.details.seed == 11
    events = list(client.text_generation(TEXT, **DRAWN, seed=11, details=True, stream=True))
    assert "".join(event.token.text for event in events) == events[-1].generated_text == whole.generated_text
    assert events[-1].details.seed == 11
    sure = client.text_generation(TEXT, max_new_tokens=16, seed=11, details=True)
    assert (sure.generated_text, sure.details.seed) == (client.text_generation(TEXT, max_new_tokens=16), None)


def test_a_seed_is_the_same_in_conversations(talker_url: str) -> None:
    client = InferenceClient(model=talker_url)

    def talk(seed: int) -> str:
        answer = client.chat_completion(TALK, max_tokens=16, temperature=5.0, seed=seed)
        return str(answer.choices[0].message.content)

    said = talk(5)
    assert talk(5) == said != talk(6)
    parts = client.chat_completion(TALK, max_tokens=16, temperature=5.0, seed=5, stream=True)
    assert "".join(part.choices[0].delta.content or "" for part in parts) == said
    sure = [
        httpx.post(f"{talker_url}/v1/chat/completions", json={"messages": TALK} | more).json()
        for more in ({}, {"seed": 5})
    ]
    assert sure[0]["choices"] == sure[1]["choices"]


def test_a_translation_is_drawn_by_a_seed_too(translator_url: str) -> None:
    def translate(**more: Any) -> list[str]:
        body = {"inputs": [TEXT, "anna met"], "parameters": DRAWN | more}
        return [item["translation_text"] for item in post(translator_url, body).json()]

    assert translate(seed=1) == translate(generate_parameters=None, seed=1) != translate(seed=2)
    lines = "".join(
        json.dumps({"inputs": text, "parameters": DRAWN | {"seed": 1}}) + "\n" for text in (TEXT, "anna met")
    )
    streamed = httpx.post(translator_url, content=lines, headers={"content-type": "application/x-ndjson"}, timeout=20)
    assert [json.loads(line)[0]["translation_text"] for line in streamed.text.splitlines()] == translate(seed=1)
