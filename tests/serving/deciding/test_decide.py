"""`python serving/decide.py`: thresholds where they were planted, a bundle that carries them, and refusals."""

from __future__ import annotations

import asyncio
import json
import shutil
import time
from pathlib import Path

import pytest

from agent.bundle import MANIFEST, Bundle
from agent.config import cli
from agent.decisions.decision import Feedback
from agent.decisions.decision_policy import POLICY
from agent.decisions.exploration import ExploreConfig
from agent.errors import BundleError
from serving.decide import DecideConfig, main
from serving.feedback.decision_log import DecisionLog, FeedbackConfig
from serving.inference.engine import Engine
from serving.metrics import Metrics
from serving.scheduling.predictor import Predictor
from serving.scheduling.request_context import RequestContext
from tests.serving.deciding.planted import NUMBER, governed, planted, texts, write_data


def command(*arguments: str) -> int:
    return cli.run(DecideConfig, main, usage="", arguments=list(arguments))


@pytest.fixture(scope="module")
def costs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("costs") / "costs.yaml"
    file.write_text("abstain: 0.25\n")
    return file


def logged(url: str, bundle: Path, right: list[str], *, explore: ExploreConfig | None = None, rewards: bool) -> None:
    """Asks a bundle, and logs what its answers are worth: as rewards of 0 or 1, or as corrections and rewards of 1."""
    log = DecisionLog(FeedbackConfig(store=url), Metrics(), "a", explore=explore)
    predictor = Predictor(Engine(Bundle.load(bundle)), decisions=log)

    async def ask() -> None:
        parameters = predictor.engine.bundle.task.parameters()
        await predictor.predict(texts(), parameters, context=RequestContext("request"))
        assert await log.flush()

    asyncio.run(ask())
    predictor.close()
    for decision, _ in list(log.store.read("a")):
        label, gold = json.loads(decision.answer)[0]["label"], right[decision.position]
        if rewards or label == gold:
            log.store.give(decision, Feedback(time.time(), "", float(label == gold), None))
        else:
            log.store.give(decision, Feedback(time.time(), "", None, json.dumps({"label": gold})))
    log.store.close()


def test_thresholds_are_where_they_were_planted_and_travel_with_the_bundle(
    classifier_path: Path, costs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    engine = Engine(Bundle.load(classifier_path))
    cuts, right = planted(engine)
    data, output = write_data(tmp_path / "data.jsonl", right), tmp_path / "out"
    arguments = [f"bundle={classifier_path}", f"costs={costs}", f"data={data}", f"output={output}"]
    assert command(*arguments, "choice.shrinkage=0") == 0
    bundle = Bundle.load(output)
    assert bundle.policy is not None
    best = [answer[0] for answer in engine.predict(texts())]
    for item in best:
        said = item["score"] >= bundle.policy.thresholds[item["label"]]
        assert said == (item["score"] >= cuts[item["label"]])
    found = bundle.policy.expected
    wrong = [item["label"] != label for item, label in zip(best, right, strict=True)]
    assert found["plain"].value == pytest.approx(sum(wrong) / NUMBER)
    assert found["silent"].value == 0.25
    assert found["policy"].value == pytest.approx(0.25 * sum(wrong) / NUMBER, abs=0.02)  # but for folds at the very cut
    assert (bundle.policy.bundle, bundle.policy.precision) == (engine.bundle.digest, "int8")
    assert (bundle.policy.evidence.kind, bundle.policy.evidence.texts) == ("data", NUMBER)
    assert bundle.digest != engine.bundle.digest
    assert bundle.manifest.lineage == engine.bundle.manifest.lineage
    assert bundle.manifest.files[POLICY].size == (output / POLICY).stat().st_size
    shown = capsys.readouterr().out
    assert f"{NUMBER} labelled texts" in shown
    assert "saved by the policy" in shown
    assert command(*arguments) == 2
    assert "already holds a bundle" in capsys.readouterr().err


def test_a_log_of_corrections_says_what_labelled_data_says(classifier_path: Path, costs: Path, tmp_path: Path) -> None:
    engine = Engine(Bundle.load(classifier_path))
    _, right = planted(engine)
    url = f"sqlite:///{tmp_path / 'd.db'}"
    logged(url, classifier_path, right, rewards=False)
    data = write_data(tmp_path / "data.jsonl", right)
    policies = []
    for name, evidence in (("log", f"log={url}"), ("data", f"data={data}")):
        where = [f"bundle={classifier_path}", f"costs={costs}", evidence, f"output={tmp_path / name}"]
        assert command(*where) == 0
        policies.append(Bundle.load(tmp_path / name).policy)
    log, labelled = policies
    assert log.thresholds == labelled.thresholds
    assert log.expected == labelled.expected
    assert (log.evidence.agent, log.evidence.texts) == ("a", NUMBER)
    assert labelled.evidence.first is None
    assert log.evidence.first <= log.evidence.last


def test_rewards_of_an_exploring_agent_weigh_by_importance(classifier_path: Path, costs: Path, tmp_path: Path) -> None:
    engine = Engine(Bundle.load(classifier_path))
    cuts, right = planted(engine)
    url = f"sqlite:///{tmp_path / 'd.db'}"
    logged(url, classifier_path, right, explore=ExploreConfig(epsilon=0.3), rewards=True)
    where = [f"bundle={classifier_path}", f"costs={costs}", f"log={url}", f"output={tmp_path / 'out'}"]
    assert command(*where, "evidence.confidence=0.999") == 0  # of 95% intervals one in twenty misses, on another CPU
    policy = Bundle.load(tmp_path / "out").policy
    assert policy is not None
    best = [answer[0] for answer in engine.predict(texts())]
    truth = sum(item["label"] != label for item, label in zip(best, right, strict=True)) / NUMBER
    assert policy.expected["plain"].low <= truth <= policy.expected["plain"].high
    said = [item["score"] >= policy.thresholds[item["label"]] for item in best]
    meant = [item["score"] >= cuts[item["label"]] for item in best]
    assert sum(one == other for one, other in zip(said, meant, strict=True)) >= 0.95 * NUMBER


def test_a_policy_that_may_be_worse_than_none_is_written_by_force_alone(
    classifier_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    right = Engine(Bundle.load(classifier_path)).labels(texts())
    (tmp_path / "costs.json").write_text('{"abstain": 0.5, "answered": {"good": 2}}')
    arguments = [f"bundle={classifier_path}", f"costs={tmp_path / 'costs.json'}", f"output={tmp_path / 'out'}"]
    arguments.append(f"data={write_data(tmp_path / 'data.jsonl', right)}")
    assert command(*arguments) == 1
    assert "the policy may be worse than none: it saves 0.0000" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert command(*arguments, "force=true") == 0
    policy = Bundle.load(tmp_path / "out").policy
    assert policy is not None
    assert set(policy.thresholds.values()) == {0.0}
    assert policy.withheld == 0


def test_what_cannot_be_decided_is_named(
    classifier_path: Path,
    costs: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    request: pytest.FixtureRequest,
) -> None:
    reader_path, tagger_path = (request.getfixturevalue(name) for name in ("reader_path", "tagger_path"))
    data = write_data(tmp_path / "data.jsonl", ["good"] * NUMBER)
    (tmp_path / "few.jsonl").write_text('{"text": "a", "label": "good"}\n')
    (tmp_path / "other.yaml").write_text("abstain: 0.1\nanswered: {great: 2}\n")
    (tmp_path / "none.yaml").write_text("wrong: 1\n")
    given = {"bundle": classifier_path, "costs": costs, "data": data, "output": tmp_path / "out"}
    for changes, status, message in (
        ({"bundle": reader_path}, 2, "the bundle is an agent for question answering"),
        ({"bundle": tagger_path, "costs": tmp_path / "none.yaml"}, 2, "unknown key 'wrong'"),
        ({"costs": tmp_path / "other.yaml"}, 2, "costs: answered names the label 'great'"),
        ({"costs": tmp_path / "none.yaml"}, 2, "key 'abstain' is required"),
        ({"data": tmp_path / "few.jsonl"}, 1, "the data cannot tell: it holds 1 labelled texts"),
        ({"log": f"sqlite:///{tmp_path / 'd.db'}"}, 2, "give log=STORE or data=FILE, one of the two"),
        ({"log": f"sqlite:///{tmp_path / 'd.db'}", "data": ""}, 1, "the log cannot tell: it holds 0 decisions"),
    ):
        assert command(*(f"{key}={value}" for key, value in (given | changes).items())) == status
        assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_rewards_below_1_do_not_say_which_entities_were_wrong(
    tagger_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = f"sqlite:///{tmp_path / 'd.db'}"
    log = DecisionLog(FeedbackConfig(store=url), Metrics(), "a")
    predictor = Predictor(Engine(Bundle.load(tagger_path)), decisions=log)

    async def ask() -> None:
        await predictor.predict(texts(), predictor.engine.bundle.task.parameters(), context=RequestContext("r"))
        assert await log.flush()

    asyncio.run(ask())
    predictor.close()
    for number, (decision, _) in enumerate(list(log.store.read("a"))):
        log.store.give(decision, Feedback(time.time(), "", float(number > 2), None))
    log.store.close()
    (tmp_path / "costs.yaml").write_text("missed: 2\n")
    arguments = [f"bundle={tagger_path}", f"costs={tmp_path / 'costs.yaml'}", f"output={tmp_path / 'out'}"]
    assert command(*arguments, f"log={url}") == 1
    assert f"3 of {NUMBER} decisions have a reward below 1" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["tagger", "labeller"])
def test_entities_and_labels_that_are_mostly_wrong_are_withheld(
    kind: str, tagger_path: Path, labeller_path: Path, tmp_path: Path
) -> None:
    path = {"tagger": tagger_path, "labeller": labeller_path}[kind]
    key, empty = ("spans", []) if kind == "tagger" else ("labels", [])
    rows = [json.dumps({"text": text, key: empty}) + "\n" for text in texts()]
    (tmp_path / "data.jsonl").write_text("".join(rows))
    (tmp_path / "costs.yaml").write_text("false_alarm: 1\n")
    arguments = [f"bundle={path}", f"costs={tmp_path / 'costs.yaml'}", f"data={tmp_path / 'data.jsonl'}"]
    assert command(*arguments, f"output={tmp_path / 'out'}") == 0
    bundle = Bundle.load(tmp_path / "out")
    assert bundle.policy is not None
    assert (bundle.policy.withheld, bundle.policy.expected["policy"].value) == (1, 0)
    assert Engine(bundle).predict(texts(20)) == [[]] * 20
    plain = bundle.task.parameters.model_validate({"policy": False})
    assert Engine(bundle).predict(texts(20), plain) == Engine(Bundle.load(path)).predict(texts(20))


def test_a_damaged_or_a_foreign_policy_is_refused_at_load(
    classifier_path: Path, labeller_path: Path, tmp_path: Path
) -> None:
    cuts = dict.fromkeys(("bad", "fair", "good"), 0.5)
    whole = governed(classifier_path, tmp_path / "whole", cuts)
    assert Bundle.load(whole).policy is not None
    content = (whole / POLICY).read_text()
    (whole / POLICY).write_text(content.replace("0.5", "0.1"))
    with pytest.raises(BundleError, match=r"policy\.json was altered"):
        Bundle.load(whole)
    shutil.copytree(classifier_path, tmp_path / "plain")
    (tmp_path / "plain" / POLICY).write_text(content)
    with pytest.raises(BundleError, match=r"holds policy\.json, which its manifest does not list"):
        Bundle.load(tmp_path / "plain")
    for number, (change, message) in enumerate((
        ({"format_version": 2}, "format version 2"), ({"thresholds": {"bad": 0.5}}, "with 1 labels"),
        ({"thresholds": cuts | {"bad": -1}}, "thresholds.bad"), ({"task": "token_classification"}, "for token_classification"),
    )):  # fmt: skip
        place = governed(classifier_path, tmp_path / f"changed{number}", cuts)
        _replace(place, json.dumps(json.loads(content) | change))
        with pytest.raises(BundleError, match=message):
            Bundle.load(place)
    place = governed(classifier_path, tmp_path / "no_json", cuts)
    _replace(place, "{")
    with pytest.raises(BundleError, match="is damaged"):
        Bundle.load(place)


def _replace(place: Path, content: str) -> None:
    """Another policy with the right digest in the manifest, as a faulty program could write it."""
    import hashlib

    (place / POLICY).write_text(content)
    tree = json.loads((place / MANIFEST).read_text())
    tree["files"][POLICY] = {"size": len(content.encode()), "sha256": hashlib.sha256(content.encode()).hexdigest()}
    (place / MANIFEST).write_text(json.dumps(tree))


def test_a_graph_of_another_precision_is_served_with_a_warning(
    classifier_path: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bundle = Bundle.load(governed(classifier_path, tmp_path / "b", dict.fromkeys(("bad", "fair", "good"), 0.5)))
    Engine(bundle, precision="fp32")
    assert not caplog.records
    Engine(bundle)
    assert "was chosen on scores of its fp32 graph, and int8 is served" in caplog.text
