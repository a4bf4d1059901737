"""A real search: Ray Tune, ASHA and training runs on tiny models, in one local Ray."""

from __future__ import annotations

import json
import os

import pytest

from agent.bundle import Bundle
from agent.errors import BundleError, ConfigError, DataError
from tests.training.runs import settings_of, train_here
from training.search.hyperparameter_search import RECORD, search
from training.search.search_config import TuneConfig
from training.search.search_record import SearchRecord

pytestmark = [pytest.mark.system, pytest.mark.usefixtures("local_ray")]

GOOD, USELESS, EXPLODING = 0.005, 1e-7, 1e30


def settings(places, name, **changes):
    tried = {
        "epochs": 4, "num_trials": 3, "grace_epochs": 2, "reduction_factor": 2, "seed": 161, "optimizer": {"kind": "adamw"},
        "space": {"optimizer": {"learning_rate": f"choice({GOOD}, {USELESS}, {EXPLODING})"}},
    }  # fmt: skip
    return settings_of(TuneConfig, places, f"{name}/agent", **tried | changes)


def below(place):
    return sorted(path.name for path in place.iterdir())


@pytest.fixture(scope="module")
def finished(places):
    config = settings(places, "whole")
    tried = [trial.settings["optimizer.learning_rate"] for trial in config.trials()]
    assert tried == [GOOD, USELESS, EXPLODING]
    return search(config)


def test_the_best_is_kept_the_hopeless_stopped_and_the_failing_told(finished, places):
    good, useless, exploding = finished.record.trials
    assert good.state == "finished"
    assert good.score > 0.9
    assert (useless.state, sorted(useless.epochs)) == ("stopped", [1, 2])
    assert (exploding.state, exploding.epochs) == ("failed", {})
    assert "loss" in exploding.failure
    assert finished.record.best.settings["optimizer.learning_rate"] == GOOD
    assert "RAY_LOG_TO_DRIVER" not in os.environ  # a training in the same program shows its lines
    assert below(places / "whole") == ["agent"]


def test_the_bundle_is_the_best_trials_and_holds_the_table_of_all(finished):
    bundle = Bundle.load(finished.bundle.path)
    config = bundle.manifest.lineage.config
    assert config["optimizer"]["learning_rate"] == GOOD
    assert config["output"] == str(bundle.path)
    reports = {evaluation.split: evaluation.report for evaluation in bundle.manifest.evaluations}
    assert reports["dev"].value == finished.record.best.score
    assert SearchRecord.read(bundle.path / RECORD) == finished.record
    page = (bundle.path / "report.md").read_text(encoding="utf-8")
    assert "## Trials of the search" in page
    assert "| 2, stopped | 1e-07 | 2 |" in page


def test_nothing_of_the_test_split_is_in_the_record(finished):
    record = json.loads((finished.bundle.path / RECORD).read_text(encoding="utf-8"))
    assert set(record["trials"][0]) == {"number", "settings", "state", "epochs", "failure"}


def test_the_same_command_says_that_it_is_finished_and_another_is_refused(finished, places):
    again = search(settings(places, "whole", max_concurrent=2))
    assert (again.is_new, again.bundle.digest, again.record) == (False, finished.bundle.digest, finished.record)
    with pytest.raises(BundleError, match="already holds a bundle"):
        search(settings(places, "whole", num_trials=5))


def test_stopped_trials_free_their_workers(finished):
    import ray
    from ray.util import placement_group_table

    assert finished
    assert [group["state"] for group in placement_group_table().values() if group["state"] != "REMOVED"] == []
    assert ray.available_resources()["CPU"] == ray.cluster_resources()["CPU"]


def test_an_interrupted_search_goes_on_with_what_is_not_over(places, capfd):
    """As a search leaves it that is killed while its second trial is under way."""
    config = settings(places, "halted", num_trials=3, space={"seed": "int(1, 99)"}, max_concurrent=2, epochs=3)
    output = places / "halted" / "agent"
    workplace = output.parent / ".agent.search"
    trials = list(config.trials())
    done = train_here(
        config.trained_with(
            {**trials[0].settings, "output": str(workplace / "agent.trial-1"), "overwrite": False, "resume": True}
        )
    )
    history = {int(row["epoch"]): row["dev_f1"] for row in done.outcome.history}
    trials[0] = trials[0].model_copy(update={"state": "finished", "epochs": history})
    trials[1] = trials[1].model_copy(update={"state": "running"})
    data = done.bundle.manifest.lineage.data_digest
    record = SearchRecord(config=config.model_dump(mode="json"), data_digest=data, trials=tuple(trials))
    record.write(workplace / RECORD)
    with pytest.raises(ConfigError, match=r"started with other settings: num_trials=5 \(was 3\)"):
        search(settings(places, "halted", num_trials=5, space={"seed": "int(1, 99)"}, epochs=3))
    capfd.readouterr()
    result = search(config)
    out = capfd.readouterr().out
    assert "goes on with an unfinished search, 1 of them over" in out
    assert "trial 1/3 starts" not in out
    assert "trial 2/3 starts with seed=" in out
    assert all(trial.is_over for trial in result.record.trials)
    assert result.record.trials[0].epochs == history
    assert below(output.parent) == ["agent"]


def test_what_is_wrong_for_every_trial_ends_the_search_before_the_first(places, capfd):
    with pytest.raises(DataError, match=r"LOC|ORG"):
        search(settings(places, "wrong", task={"kind": "token_classification", "labels": ["PER"]}))
    assert "trial 1" not in capfd.readouterr().out
    assert not (places / "wrong").exists()
