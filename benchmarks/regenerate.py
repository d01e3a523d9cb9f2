"""Makes the tables of the benchmarks again, one command a table, and draws their page from the files.

    python benchmarks/regenerate.py                 # lists the tables, each with its command
    python benchmarks/regenerate.py step-float32    # runs the command of one and notes its table, machine and date
    python benchmarks/regenerate.py --draw          # writes the page, results/README.md, from the files

``results/tables.yaml`` names the tables; ``results/tables/NAME.csv`` holds the cells of each, as the command printed
them. A command may print several Markdown tables; the first one is noted.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
import yaml

from spotkd.runtime.device import describe_machine

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results"
CELL_ENDS = re.compile(r"(?<!\\)\|")
Row = list[str]


def read_registry() -> dict[str, Any]:
    """The tables by name, and the data files that scripts of their own read and write."""
    content: dict[str, Any] = yaml.safe_load((RESULTS / "tables.yaml").read_text(encoding="utf-8"))
    return content


def table_path(name: str) -> Path:
    return RESULTS / "tables" / f"{name}.csv"


def parse_table(text: str) -> list[Row]:
    """The rows of the first Markdown table of a text, its header among them.

    Raises:
        SystemExit: there is none.
    """
    rows: list[Row] = []
    for line in text.splitlines():
        if line.startswith("|"):
            rows.append([cell.strip().replace("\\|", "|") for cell in CELL_ENDS.split(line)[1:-1]])
        elif rows:
            break
    if len(rows) < 3 or any(set(cell) - set("-:") for cell in rows[1]):
        raise SystemExit("the command has printed no table")
    return [rows[0], *rows[2:]]


def format_table(rows: list[Row]) -> str:
    """Rows as a Markdown table; the first one is its header."""
    head, *body = ([cell.replace("|", "\\|") for cell in row] for row in rows)
    lines = [head, ["---"] * len(head), *body]
    return "\n".join(f"| {' | '.join(line)} |".replace("| --- ", "|---").replace("--- |", "---|") for line in lines)


def read_rows(path: Path) -> list[Row]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def run(name: str, table: dict[str, Any]) -> None:
    """Run the command of a table, and note what it printed, where and when."""
    words = shlex.split(table["command"])
    threads = {"OMP_NUM_THREADS": str(table["threads"])} if "threads" in table else {}
    ended = subprocess.run(
        [sys.executable, *words[1:]], cwd=ROOT, env=os.environ | threads, stdout=subprocess.PIPE, text=True
    )
    print(ended.stdout)
    if ended.returncode:
        raise SystemExit(f"{table['command']}: ended with status {ended.returncode}; nothing is noted")
    rows = parse_table(ended.stdout)
    with table_path(name).open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)
    device = torch.device("cuda" if "cuda" in words and torch.cuda.is_available() else "cpu")
    measured = f"{describe_machine(device)}, torch {torch.__version__}, {datetime.date.today()}"
    path = RESULTS / "tables.yaml"
    text, found = path.read_text(encoding="utf-8"), re.escape(name)
    path.write_text(re.sub(rf"(?m)(^  {found}:\n(?:    .*\n)*?    measured: ).*", rf"\g<1>{measured}", text), "utf-8")


def draw(registry: dict[str, Any]) -> str:
    """The page: every table under its command."""
    parts = [
        "# Raw tables\n\nWritten by `python benchmarks/regenerate.py --draw` from the files in `tables/`; "
        "`python benchmarks/regenerate.py NAME` makes one again.\nWhat they say stands in "
        "[Benchmarks](../README.md).\n"
    ]
    for name, table in registry["tables"].items():
        threads = f"OMP_NUM_THREADS={table['threads']} " if "threads" in table else ""
        made = f"`{threads}{table['command']}`: {table['measured']}."
        parts.append(f"## {name}\n\n{table['title']}. {made}\n\n{format_table(read_rows(table_path(name)))}\n")
    rows = [["file", "made by", "drawn by"], *([f"[{f}]({f})", *(f"`{c}`" for c in m)] for f, m in registry["files"])]
    parts.append(f"## Other files\n\nFiles that their scripts go on with and draw.\n\n{format_table(rows)}\n")
    return "\n".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    registry = read_registry()
    parser.add_argument("names", nargs="*", choices=[*registry["tables"], []], metavar="NAME")
    parser.add_argument("--draw", action="store_true")
    chosen = parser.parse_args()
    for name in chosen.names:
        run(name, registry["tables"][name])
    if chosen.names or chosen.draw:
        (RESULTS / "README.md").write_text(draw(read_registry()), encoding="utf-8")
        return
    for name, table in registry["tables"].items():
        print(f"{name:32} {table['command']}")


if __name__ == "__main__":
    main()
