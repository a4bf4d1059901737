"""The table of input formats."""

from __future__ import annotations

from collections.abc import Mapping

from serving.annotation.parquet import Parquet
from serving.annotation.records import Format, JsonLines, Text

FORMATS: Mapping[str, Format] = {format_.name: format_ for format_ in (JsonLines(), Text(), Parquet())}
