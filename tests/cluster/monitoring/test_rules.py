"""Rules are sound, every alert fires when it should and stays silent when it should, and has its runbook."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.monitoring.promql import Clock
from cluster.monitoring.rules.alerts import groups
from cluster.monitoring.rules.rule_file import RUNBOOKS, Alert, Group, rules_file
from tests.cluster.monitoring.alert_cases import CASES, Case
from tests.cluster.monitoring.tools import needed

ROOT = Path(__file__).parents[3]
_EVERY = "2m"  # what a rule recorded is looked at for five minutes, and promtool takes groups in any order
ALERTS = {rule.name: rule for group in groups() for rule in group.rules if isinstance(rule, Alert)}

# What must wake somebody; none of these may go missing.
DEMANDED = {
    "BertAgentLatencyBudgetBurn", "BertAgentErrorBudgetBurn", "BertAgentShedding", "BertAgentQueueGrowing", "BertAgentReplicaFlapping",
    "BertAgentScoreDrift", "BertAgentTrainingStalled", "BertAgentTrainingLossNotFinite", "BertAgentNodeDown", "BertAgentGcsDown",
    "BertAgentVersionRefused", "BertAgentDrift",
}  # fmt: skip


def rules_of(alert: str) -> list[Group]:
    """An alert's rules, and those that record what they ask for: with all others promtool takes ten times as long over a day."""
    known = [rule for group in groups() for rule in group.rules]
    wanted = {rule.name for rule in known if rule.name == alert}
    while (
        more := {rule.name for rule in known for other in known if other.name in wanted and rule.name in other.expr}
        - wanted
    ):
        wanted |= more
    kept = [Group(group.name, [rule for rule in group.rules if rule.name in wanted]) for group in groups()]
    return [group for group in kept if group.rules]


def promtool(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [needed("promtool"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("speed", [1, 120, 1000])
def test_prometheus_takes_the_rules_at_any_speed(speed: float, tmp_path: Path) -> None:
    file = tmp_path / "rules.yaml"
    file.write_text(rules_file(groups(Clock(speed))))
    done = promtool("check", "rules", file)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.alert}: {case.name}")
def test_an_alert_fires_for_its_fault_and_for_nothing_else(case: Case, tmp_path: Path) -> None:
    annotations = ALERTS[case.alert].plain()["annotations"]
    expected = [
        {"exp_labels": labels, "exp_annotations": annotations | {"summary": says}} for labels, says in case.fires
    ]
    test: dict[str, Any] = {
        "interval": case.step,
        "input_series": [{"series": name, "values": values} for name, values in case.series.items()],
        "alert_rule_test": [{"eval_time": case.at, "alertname": case.alert, "exp_alerts": expected}],
    }
    file, rules = tmp_path / "test.yaml", tmp_path / "rules.yaml"
    rules.write_text(rules_file(rules_of(case.alert)))
    file.write_text(
        yaml.safe_dump({"rule_files": [str(rules)], "evaluation_interval": _EVERY, "tests": [test]}, width=10_000)
    )
    done = promtool("test", "rules", file)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_alerts_that_must_be_there_are() -> None:
    assert DEMANDED - set(ALERTS) == set()


def test_every_alert_has_a_case_that_fires_it_and_one_that_does_not() -> None:
    assert {case.alert for case in CASES if case.fires} == set(ALERTS)
    assert {case.alert for case in CASES if not case.fires} == set(ALERTS)


def test_every_alert_leads_to_a_section_of_the_runbooks_that_says_what_to_do() -> None:
    text = (ROOT / RUNBOOKS).read_text()
    sections = dict(re.findall(r"^## (BertAgent\w+)\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL))
    assert set(sections) == set(ALERTS)
    for name, section in sections.items():
        assert all(part in section for part in ("**Means**", "**Look**", "**Do**")), name


def test_a_clock_shortens_windows_and_waits_but_not_below_what_scrapes_allow() -> None:
    clock = Clock(120)
    assert (clock.window("1h"), clock.window("5m"), clock.window("6h")) == ("30s", "30s", "180s")
    assert (clock.hold("0s"), clock.hold("2m"), clock.hold("1h")) == ("0s", "7s", "30s")
    assert (Clock().window("1h"), Clock().hold("2m")) == ("1h", "2m")
    with pytest.raises(ValueError, match="1 hour"):
        Clock(2).window("1 hour")
