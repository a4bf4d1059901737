"""Silences the progress bars and log messages of Ray Data."""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager


def quiet() -> AbstractContextManager[None]:
    """Switches off Ray Data's progress bars and messages inside the block; ours are shown instead."""
    from ray.data import DataContext

    context = DataContext.get_current().copy()
    context.enable_progress_bars = context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    logging.getLogger("ray.data._internal.progress").setLevel(logging.ERROR)
    silenced: AbstractContextManager[None] = DataContext.current(context)
    return silenced
