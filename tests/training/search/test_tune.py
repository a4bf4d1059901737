"""A real search: Ray Tune, ASHA and training runs on tiny models, in one local Ray."""

from __future__ import annotations

import io
import json
import os
from contextlib import redirect_stdout

import pytest

from agent.bundle import Bundle
from agent.errors import BundleError, ConfigError, DataError
from cluster.tuning import TrialRunner
from tests.training.runs import settings_of, train_here
from tests.waiting import until
from training.search.hyperparameter_search import RECORD, search
from training.search.search_config import TuneConfig
from training.search.search_record import SearchRecord

pytestmark = [pytest.mark.system, pytest.mark.long, pytest.mark.usefixtures("local_ray")]

# The last starts when the one before has failed: what is good is known by then.
FAIR, GOOD, EXPLODING, USELESS = 0.002, 0.005, 1e30, 1e-7


def settings(places, name, **changes):
    tried = {
        "epochs": 4, "num_trials": 4, "grace_epochs": 2, "reduction_factor": 2, "seed": 533, "optimizer": {"kind": "adamw"},
        "max_concurrent": 2, "space": {"optimizer": {"learning_rate": f"choice({FAIR}, {GOOD}, {EXPLODING}, {USELESS})"}},
    }  # fmt: skip
    return settings_of(TuneConfig, places, f"{name}/agent", **tried | changes)


def below(place):
    return sorted(path.name for path in place.iterdir())


def interrupted(*_):
    raise KeyboardInterrupt


@pytest.fixture(scope="module")
def begun(places):
    """A search that was interrupted before its first trial, and goes on as if the second had been under way: its first trial's history."""
    config = settings(places, "whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrialRunner, "run", interrupted)
        with pytest.raises(KeyboardInterrupt):
            search(config)
    workplace = places / "whole" / ".agent.search"
    record = SearchRecord.read(workplace / RECORD)
    assert [trial.settings["optimizer.learning_rate"] for trial in record.trials] == [FAIR, GOOD, EXPLODING, USELESS]
    done = train_here(
        config.trained_with(
            {
                **record.trials[0].settings,
                "output": str(workplace / "agent.trial-1"),
                "overwrite": False,
                "resume": True,
            }
        )
    )
    history = {int(row["epoch"]): row["dev_score"] for row in done.outcome.history}
    record.with_trial(1, state="finished", epochs=history).with_trial(2, state="running").write(workplace / RECORD)
    return history


@pytest.fixture(scope="module")
def finished(places, begun):
    """The search to its end, and what it printed."""
    out = io.StringIO()
    with redirect_stdout(out):
        result = search(settings(places, "whole"))
    return result, out.getvalue()


def test_an_unfinished_search_with_other_settings_is_refused(begun, places):
    with pytest.raises(ConfigError, match=r"started with other settings: num_trials=5 \(was 4\)"):
        search(settings(places, "whole", num_trials=5))


def test_the_best_is_kept_the_hopeless_stopped_and_the_failing_told(finished, places):
    result, _ = finished
    fair, good, exploding, useless = result.record.trials
    assert good.state == "finished"
    assert good.score > 0.9
    assert good.score > fair.score
    assert (useless.state, sorted(useless.epochs)) == ("stopped", [1, 2])
    assert (exploding.state, exploding.epochs) == ("failed", {})
    assert "loss" in exploding.failure
    assert result.record.best.settings["optimizer.learning_rate"] == GOOD
    assert "RAY_LOG_TO_DRIVER" not in os.environ  # a training in the same program shows its lines
    assert below(places / "whole") == ["agent"]


def test_an_interrupted_search_goes_on_with_what_is_not_over(finished, begun):
    """As a search leaves it that is killed while its second trial is under way."""
    result, out = finished
    assert "goes on with an unfinished search, 1 of them over" in out
    assert "trial 1/4 starts" not in out
    assert "trial 2/4 starts with optimizer.learning_rate=" in out
    assert all(trial.is_over for trial in result.record.trials)
    assert (result.record.trials[0].state, result.record.trials[0].epochs) == ("finished", begun)


def test_the_bundle_is_the_best_trials_and_holds_the_table_of_all(finished):
    finished, _ = finished
    bundle = Bundle.load(finished.bundle.path)
    config = bundle.manifest.lineage.config
    assert config["optimizer"]["learning_rate"] == GOOD
    assert config["output"] == str(bundle.path)
    reports = {evaluation.split: evaluation.report for evaluation in bundle.manifest.evaluations}
    assert reports["dev"].value == finished.record.best.score
    assert SearchRecord.read(bundle.path / RECORD) == finished.record
    page = (bundle.path / "report.md").read_text(encoding="utf-8")
    assert "## Trials of the search" in page
    assert "| 4, stopped | 1e-07 | 2 |" in page


def test_nothing_of_the_test_split_is_in_the_record(finished):
    finished, _ = finished
    record = json.loads((finished.bundle.path / RECORD).read_text(encoding="utf-8"))
    assert set(record["trials"][0]) == {"number", "settings", "state", "epochs", "failure"}


def test_the_same_command_says_that_it_is_finished_and_another_is_refused(finished, places):
    finished, _ = finished
    again = search(settings(places, "whole", max_concurrent=1))
    assert (again.is_new, again.bundle.digest, again.record) == (False, finished.bundle.digest, finished.record)
    with pytest.raises(BundleError, match="already holds a bundle"):
        search(settings(places, "whole", num_trials=5))


def test_stopped_trials_free_their_workers(finished):
    import ray
    from ray.util import placement_group_table

    def groups_are_removed():
        return {group["state"] for group in placement_group_table().values()} <= {"REMOVED"}

    def cores_are_free():
        return ray.available_resources().get("CPU") == ray.cluster_resources()["CPU"]

    assert finished
    assert until(groups_are_removed), placement_group_table()
    assert until(cores_are_free), ray.available_resources()


def test_what_is_wrong_for_every_trial_ends_the_search_before_the_first(places, capfd):
    with pytest.raises(DataError, match=r"LOC|ORG"):
        search(settings(places, "wrong", task={"kind": "token_classification", "labels": ["PER"]}))
    assert "trial 1" not in capfd.readouterr().out
    assert not (places / "wrong").exists()
