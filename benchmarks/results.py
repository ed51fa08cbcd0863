"""The folder of the results: one JSON file a part, and what is made from all of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from .parts import PARTS

HERE = Path(__file__).resolve().parent / "results"
"""Where they go unless another folder is named."""


def write(folder: Path, part: str, found: dict[str, Any]) -> Path:
    """Put the results of a part in the place of those that may be there."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{part}.json"
    path.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return path


def read(folder: Path) -> dict[str, dict[str, Any]]:
    """The results that are there, by part."""
    paths = {part: folder / f"{part}.json" for part in PARTS}
    return {part: json.loads(path.read_text(encoding="utf-8")) for part, path in paths.items() if path.exists()}


def rows(results: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """All comparisons with another (`measure.Row`), of all parts."""
    return [row for found in results.values() for row in found.get("rows", [])]
