"""Imports what ranks need, once for all that `launch` forks (processes.py)."""

from __future__ import annotations

import os

os.environ["DS_ACCELERATOR"] = "cpu"  # DeepSpeed reads it when it is imported

import ray.train.torch
from transformers import BertForTokenClassification

import training.lifecycle.job
import training.loop.worker
from training.engine.deepspeed_internals import import_without_mlflow, skip_compilers

__all__ = ["BertForTokenClassification", "ray", "training"]

import_without_mlflow()
skip_compilers()
