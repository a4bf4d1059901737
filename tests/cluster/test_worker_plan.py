"""Workers from resources."""

import pytest

from agent.errors import ClusterError
from cluster import WorkerPlan, plan_workers


@pytest.mark.parametrize(
    ("num_workers", "resources", "plan"),
    [
        (None, {"CPU": 2}, WorkerPlan(1, False, 2)),
        (None, {"CPU": 64.0}, WorkerPlan(1, False, 64)),
        (1, {"CPU": 2}, WorkerPlan(1, False, 2)),
        (2, {"CPU": 2}, WorkerPlan(2, False, 1)),
        (3, {"CPU": 8}, WorkerPlan(3, False, 2)),
        (None, {"CPU": 16, "GPU": 1}, WorkerPlan(1, True, 4)),
        (None, {"CPU": 16, "GPU": 8.0}, WorkerPlan(8, True, 2)),
        (2, {"CPU": 16, "GPU": 8}, WorkerPlan(2, True, 4)),
        (4, {"CPU": 2, "GPU": 4}, WorkerPlan(4, True, 1)),
        (None, {"GPU": 2}, WorkerPlan(2, True, 1)),
        (1, {"CPU": 4, "GPU": 0}, WorkerPlan(1, False, 4)),
    ],
)
def test_workers_are_planned(num_workers, resources, plan):
    assert plan_workers(num_workers, [resources]) == plan


@pytest.mark.parametrize(
    ("num_workers", "nodes", "plan"),
    [
        (None, [{"CPU": 1}, {"CPU": 1}], WorkerPlan(1, False, 1)),  # never more than a node has: it would wait for ever
        (2, [{"CPU": 1}, {"CPU": 1}], WorkerPlan(2, False, 1)),
        (3, [{"CPU": 8}, {"CPU": 3}], WorkerPlan(3, False, 3)),
        (None, [{"CPU": 2}, {"CPU": 8, "GPU": 4}, {"CPU": 8, "GPU": 2}], WorkerPlan(6, True, 2)),
        (2, [{"CPU": 0}, {"CPU": 4}], WorkerPlan(2, False, 2)),
    ],
)
def test_workers_fit_the_nodes(num_workers, nodes, plan):
    assert plan_workers(num_workers, nodes) == plan


@pytest.mark.parametrize(
    ("num_workers", "resources", "what"),
    [
        (3, {"CPU": 2}, "num_workers=3, but the cluster has 2 CPUs. Allowed: 1 to 2 workers. Remedy"),
        (9, {"CPU": 64, "GPU": 8}, "num_workers=9, but the cluster has 8 GPUs. Allowed: 1 to 8 workers"),
        (None, {}, "num_workers=1, but the cluster has 0 CPUs. Remedy"),
        (None, {"CPU": 0.5}, "the cluster has 0 CPUs"),
    ],
)
def test_more_than_the_cluster_has_is_refused(num_workers, resources, what):
    with pytest.raises(ClusterError) as caught:
        plan_workers(num_workers, [resources])
    assert what in str(caught.value)


def test_a_plan_reads_as_one_clause():
    assert str(plan_workers(2, [{"CPU": 8, "GPU": 2}])) == "2 GPU worker(s), 1 GPU each"
    assert str(plan_workers(2, [{"CPU": 8}])) == "2 CPU worker(s), 4 CPU thread(s) each"
