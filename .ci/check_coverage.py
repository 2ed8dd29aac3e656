"""Fails if any file of the service is covered less than it must be: a good total hides an untried file.

python .ci/check_coverage.py coverage.json 85
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

SMALL_STATEMENTS = 5
"""In a file with fewer statements one line would decide."""


def main(report: Path, least_percent: float) -> int:
    """Prints the files below the bound, and the total; 0 if there are none."""
    data = json.loads(report.read_text())
    below = []
    for name, file in sorted(data["files"].items()):
        summary = file["summary"]
        if summary["num_statements"] >= SMALL_STATEMENTS and summary["percent_covered"] < least_percent:
            below.append((name, summary["percent_covered"], file["missing_lines"]))
    for name, percent, missing in below:
        print(f"{name}: {percent:.0f} % covered, {least_percent:.0f} % wanted; lines not run: {_ranges(missing)}")
    total, files = data["totals"]["percent_covered"], len(data["files"])
    print(f"{total:.1f} % covered in {files} files; {len(below)} of them below {least_percent:.0f} %")
    return 1 if below else 0


def _ranges(lines: list[int]) -> str:
    """``[1, 2, 3, 7]`` as ``1-3, 7``."""
    found: list[list[int]] = []
    for line in lines:
        if found and found[-1][1] == line - 1:
            found[-1][1] = line
        else:
            found.append([line, line])
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in found)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), float(sys.argv[2])))
