"""What type checkers say of decorated functions."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

FILES = Path(__file__).parent / "typing_files"
CHECKERS = {
    "mypy": [sys.executable, "-m", "mypy", "--strict", "--no-incremental", "--no-error-summary"],
    "pyright": [sys.executable, "-m", "pyright", "--pythonpath", sys.executable],
}


def complaints(checker: str, name: str, cwd: Path) -> tuple[set[int], str]:
    """The lines of a file that a checker refuses, and all it said."""
    done = subprocess.run([*CHECKERS[checker], str(FILES / name)], capture_output=True, text=True, cwd=cwd, check=False)
    said = done.stdout + done.stderr
    return {int(line) for line in re.findall(rf"{re.escape(name)}:(\d+)(?::\d+)?:? -? ?error", said)}, said


@pytest.mark.timeout(300)
@pytest.mark.parametrize("checker", CHECKERS)
def test_every_call_form_is_accepted(checker: str, tmp_path: Path) -> None:
    """Each call form keeps the signature of what it decorates, bound and unbound, sync and async."""
    lines, said = complaints(checker, "accepted.py", tmp_path)
    assert not lines, said


@pytest.mark.timeout(300)
@pytest.mark.parametrize("checker", CHECKERS)
def test_misuse_is_refused(checker: str, tmp_path: Path) -> None:
    """Wrong arguments, results and options are refused, line by line, and nothing else is."""
    text = (FILES / "refused.py").read_text().splitlines()
    wrong = {number for number, line in enumerate(text, 1) if line.endswith("# wrong")}
    lines, said = complaints(checker, "refused.py", tmp_path)
    assert len(wrong) > 15
    assert lines == wrong, said


@pytest.mark.timeout(300)
def test_every_public_name_has_a_type(tmp_path: Path) -> None:
    """Nothing that users can import is left to be inferred, which checkers do differently."""
    command = [*CHECKERS["pyright"], "--verifytypes", "cacheside", "--ignoreexternal"]
    # With --verifytypes, pyright looks for packages by the first python on PATH, whatever --pythonpath says.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    environment = {**os.environ, "PATH": path}
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, check=False)
    assert "Type completeness score: 100%" in done.stdout, done.stdout + done.stderr
