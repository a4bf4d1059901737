"""What the benchmark tells a rival through its environment."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

BUNDLE, PORT = os.environ.get("BUNDLE", ""), int(os.environ.get("PORT", "0"))
PLACE = Path(os.environ.get("PLACE", "."))
"""A directory for what the server writes; it is removed afterwards."""
SETTINGS: dict[str, Any] = json.loads(os.environ.get("SETTINGS", "{}"))
