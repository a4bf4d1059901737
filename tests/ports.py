"""TCP ports of this machine."""

from __future__ import annotations

import random
import socket

# Below those that systems give to whoever asks for any (from 32768 on), as every process of Ray does, and those of Ray Serve's replicas
# (from 30000 on); above those of Ray's workers (to 19999). A port of these ranges may be gone before a server has started.
_FIRST, _LAST = 20_000, 29_999
_draws = random.SystemRandom()  # not that of tests, which draw what they drew before


def free_port() -> int:
    """A port that nothing listens at now, and that nobody is given who does not ask for it."""
    while True:
        port = _draws.randint(_FIRST, _LAST)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
