"""Sums over real workers: two processes over gloo."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist

from tests.training.processes import launch
from training.engine import gradient_allreduce
from training.engine.gradient_allreduce import GradientAllreduce

ROWS, SIZE = 40, 6
TOUCHED = [0, 3, 4, 17, 39]
BUCKET = gradient_allreduce._BUCKET


def parameters(rank, *, step, touched=None, without=()):
    """A table, a matrix, a vector and a number with gradients that differ by worker; the table's are zero but for `touched`."""
    generator = torch.Generator().manual_seed(100 * step + rank)
    shapes = {"table": (ROWS, SIZE), "matrix": (7, 11), "vector": (5,), "number": ()}
    found = {name: torch.nn.Parameter(torch.zeros(shape)) for name, shape in shapes.items()}
    for name, parameter in found.items():
        if name not in without:
            parameter.grad = torch.randn(parameter.shape, generator=generator)
    if touched is not None and found["table"].grad is not None:
        mask = torch.zeros(ROWS, 1)
        mask[touched] = 1
        found["table"].grad *= mask
    if found["matrix"].grad is not None:
        found["matrix"].grad = found["matrix"].grad.T.contiguous().T  # lies otherwise in memory than its parameter
    return found


def plain_sum(found):
    """What a plain all-reduce of every gradient gives."""
    sums = {}
    for name, parameter in found.items():
        sums[name] = (
            torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.detach().clone().contiguous()
        )
        dist.all_reduce(sums[name])
    return sums


def check(step, rank, *, bucket=BUCKET, touched=None, table=True, without=()):
    gradient_allreduce._BUCKET = bucket
    found = parameters(rank, step=step, touched=touched, without=without)
    wanted = plain_sum(found)
    trained = [parameter for name, parameter in found.items() if table or name != "table"]
    exchanged = GradientAllreduce(trained, found["table"] if table else None)
    assert exchanged.by_rows is table
    before = None if table else found["table"].grad.clone()
    exchanged.run(None if touched is None else torch.tensor(touched))
    for name, parameter in found.items():
        if name == "table" and not table:
            assert parameter.grad.equal(before)  # frozen: nobody has asked for its sum
        else:
            torch.testing.assert_close(parameter.grad, wanted[name], rtol=1e-6, atol=1e-6, msg=f"step {step}: {name}")


def everything():
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    nothing = ("table", "matrix", "vector", "number")
    check(1, rank)
    check(2, rank, touched=TOUCHED)
    check(3, rank, touched=list(range(ROWS - 3)))  # so many that the whole table goes
    for bucket in (1, 7, 60):  # smaller than some of the parameters, and than all but the number
        check(4, rank, bucket=bucket)
        check(5, rank, bucket=bucket, touched=TOUCHED)
    for empty in (0, 1):  # its part of the step was empty
        check(6, rank, without=nothing if rank == empty else ())
        check(7, rank, without=nothing if rank == empty else (), touched=TOUCHED)
    check(8, rank, without=("table", "vector"), touched=TOUCHED)
    check(9, rank, without=nothing, touched=TOUCHED)
    check(10, rank, table=False)
    check(11, rank, table=False, touched=TOUCHED)
    dist.destroy_process_group()


@pytest.mark.system
def test_gradients_become_the_sums_of_a_plain_all_reduce():
    launch(2, everything)


def test_buckets_hold_every_gradient_once_and_no_more_than_fits(monkeypatch):
    monkeypatch.setattr(gradient_allreduce, "_BUCKET", 60)
    found = list(parameters(0, step=0).values())
    buckets = gradient_allreduce._buckets(found)
    flat = [gradient for bucket in buckets for gradient in bucket]
    assert [gradient.data_ptr() for gradient in flat] == [parameter.grad.data_ptr() for parameter in found]
    assert all(len(bucket) == 1 or sum(gradient.numel() for gradient in bucket) <= 60 for bucket in buckets)
    assert len(buckets) == 3  # the table, the matrix, and the rest together
