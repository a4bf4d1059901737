"""How Ray Data runs in our programs: without bars and tales of its own beside ours."""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager


def quiet() -> AbstractContextManager[None]:
    """Keeps Ray Data from showing bars of its own beside ours, and from telling about it, inside the block."""
    from ray.data import DataContext

    context = DataContext.get_current().copy()
    context.enable_progress_bars = context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    logging.getLogger("ray.data._internal.progress").setLevel(logging.ERROR)
    silenced: AbstractContextManager[None] = DataContext.current(context)
    return silenced
