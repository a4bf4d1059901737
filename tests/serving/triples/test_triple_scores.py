"""Triples scored end to end: the gold ones of labelled records, micro F1 counted by hand, and the command that scores two agents together."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agent.config import cli
from agent.tasks import RelationExtraction
from agent.tasks.relations.triple_scores import Triple, gold_texts, score_triples
from serving.compare import CompareConfig, main
from tests.serving.triples.gold import RELATER, TOLD


def read(task: RelationExtraction, *records: tuple[str, str]) -> list:
    return gold_texts(task, [task.read_record({"text": text, "label": label}, "f:1") for text, label in records])


def test_the_gold_triples_of_a_text_are_those_of_all_its_records() -> None:
    one, two = read(
        RELATER,
        ("<e1>Anna</e1> of <e2>Acme</e2> in Oslo", "Employment(e1,e2)"),
        ("x <e1>A</e1> <e2>B</e2>", "none"),
        ("Anna of <e2> Acme </e2> in <e1>Oslo</e1>".replace("> ", ">").replace(" <", " <"), "Location(e2,e1)"),
        ("Anna of <e1>Acme</e1> in <e2>Oslo</e2>", "Location(e1,e2)"),
    )
    assert one.text.split() == ["Anna", "of", "Acme", "in", "Oslo"]
    anna, acme, oslo = (0, 4), (8, 12), (16, 20)
    assert one.triples == {Triple(anna, "Employment", acme), Triple(acme, "Location", oslo)}
    assert one.entities == {anna, acme, oslo}
    assert (two.text, two.triples) == ("x A B", frozenset())


def test_a_relation_without_direction_goes_out_from_the_first_where_others_have_one_and_from_e1_else() -> None:
    record = "<e2>Bo</e2> and <e1>Cora</e1>", "Siblings"
    (first,) = read(RELATER, record)
    assert first.triples == {Triple((0, 2), "Siblings", (7, 11))}
    (head,) = read(RelationExtraction(labels=("Siblings", "Other")), record)
    assert head.triples == {Triple((7, 11), "Siblings", (0, 2))}


def test_micro_f1_is_counted_by_hand() -> None:
    gold = read(RELATER, ("<e1>A</e1> <e2>B</e2>", "Employment(e1,e2)"), ("<e1>C</e1> <e2>D</e2>", "Siblings"))
    right = Triple((0, 1), "Employment", (2, 3))
    report = score_triples(
        gold, [{right, right._replace(relation="Location"), Triple((2, 3), "Employment", (0, 1))}, set()]
    )
    assert report.metrics == pytest.approx(
        {"f1": 2 / 5, "precision": 1 / 3, "recall": 1 / 2, "f1.Employment": 2 / 3, "f1.Location": 0, "f1.Siblings": 0}
    )
    assert (report.primary, report.support) == ("f1", 2)
    assert score_triples(gold, [set(), set()]).value == 0.0


def test_perfect_agents_score_one_end_to_end(
    relater: Path, tagger: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [record for told in TOLD for record in told.records()]
    (tmp_path / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    more = [f"data.path={tmp_path}", f"output={tmp_path / 'out.json'}"]
    said = cli.run(CompareConfig, main, usage="", arguments=[f"bundle={relater}", f"entities={tagger}", *more])
    assert said == 0, capsys.readouterr().err
    found = json.loads((tmp_path / "out.json").read_text())
    metrics = found["bundle"]["report"]["metrics"]
    assert {metrics[name] for name in ("f1", "precision", "recall")} == {1.0}
    assert found["bundle"]["report"]["support"] == sum(len(told.triples) for told in TOLD)
    assert (found["other"], found["agreement"], len(found["entities"])) == (None, None, 64)
    assert "f1 of triples, end to end" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        (("tagger", "relater"), "bundle={0} is an agent of token_classification. Allowed: with entities=..., bundle is an agent of relation_extraction. Remedy: leave entities out"),
        (("relater", "relater"), "entities={1} is an agent of relation_extraction. Allowed: with entities=..., entities is an agent of token_classification. Remedy: give the bundle of a tagger"),
    ],
)  # fmt: skip
def test_agents_that_do_not_fit_together_are_named(
    keys: tuple[str, str], told: str, relater: Path, tagger: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = [{"relater": relater, "tagger": tagger}[key] for key in keys]
    arguments = [f"bundle={paths[0]}", f"entities={paths[1]}"]
    assert cli.run(CompareConfig, main, usage="", arguments=arguments) == 2
    assert told.format(*paths) in capsys.readouterr().err
