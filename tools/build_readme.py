"""Put what the demo made into the pages: ``make readme``, or ``python tools/build_readme.py [runs/demo]``.

With the demo's folder its results and picture are taken over to ``docs/assets/``; the table of ``docs/index.md`` is
then written from there. Another processor gives other last digits, so a test compares the page with the recorded
results.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path

from spotkd.demo import markdown

DOCS = Path(__file__).parents[1] / "docs"
RESULTS = DOCS / "assets" / "demo.json"
PLACE = re.compile(r"(?<=<!-- demo -->\n).*?(?=<!-- end of demo -->)", re.DOTALL)


def with_results(page: str) -> str:
    """The page with the recorded results of the demo in their place."""
    results = json.loads(RESULTS.read_text(encoding="utf-8"))
    return PLACE.sub(lambda _: f"\n{markdown(results)}\n", page)


def main() -> None:
    for folder in map(Path, sys.argv[1:]):
        shutil.copyfile(folder / "results.json", RESULTS)
        shutil.copyfile(folder / "decisions.png", DOCS / "assets" / "decisions.png")
    page = DOCS / "index.md"
    page.write_text(with_results(page.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
