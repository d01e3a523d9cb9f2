"""Build the documentation site: ``python tools/build_site.py [FOLDER]`` leaves it in ``FOLDER/site``.

The folder is ``build/docs`` unless you say otherwise.

Pages link to each other as they do in the repository, so that they can be read there. Here they are copied with those
links rewritten, notebooks become pages, and files outside ``docs/`` that pages link to come along under their own path:
``../benchmarks/README.md`` is ``benchmarks/README.md`` of the site. What is copied is plain Markdown without hooks, so
any builder that reads ``mkdocs.yml`` can make the site of it.
"""

from __future__ import annotations

import html
import json
import os
import posixpath
import re
import shutil
import subprocess
import sys
from base64 import b64decode
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert

ROOT = Path(__file__).parents[1]
OUTSIDE = (
    "CHANGELOG.md",
    "CITATION.cff",
    "CONTRIBUTING.md",
    "benchmarks/*.md",
    "benchmarks/results/**/*",
    "examples/*.py",
    "src/spotkd/distillers/*.py",
)
ASIDE = ("decisions/", "benchmarks/", "CHANGELOG", "CONTRIBUTING", "design")  # found behind the pages for users
BEHIND = "---\nsearch: { boost: 0.2 }\n---\n"
LINK = re.compile(r"(?<=\]\()([^)#:\s]+)")  # the path of a link or a picture, without its anchor

DIALOG = 'data-md-component="search" role="dialog"'
FORMULA = re.compile(r'<(span|div) class="arithmatex">\\[(\[]\s*(.*?)\s*\\[)\]]</\1>', re.DOTALL)
ROLE = re.compile(r":\w+:<code>(?:~[\w.]+\.)?(\w)")


def site_path(path: str) -> str:
    """Where a file of the repository is in the site."""
    return {"README.md": "index.md"}.get(path, path).removeprefix("docs/").replace(".ipynb", ".md")


def for_site(text: str, path: str) -> str:
    """A page of the repository with the links of the site."""

    def moved(link: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(path), link[1]))
        if not (ROOT / target).exists():  # code that looks like a link; a dead link fails the build as it is
            return link[1]
        return posixpath.relpath(site_path(target), posixpath.dirname(site_path(path)) or ".")

    return LINK.sub(moved, text)


def formula(found: re.Match[str]) -> str:
    """A formula in LaTeX as MathML, which browsers show without any script."""
    return convert(html.unescape(found[2]), display="inline" if found[1] == "span" else "block")


def notebook_page(notebook: dict[str, Any], pictures: Path) -> str:
    """A notebook as Markdown: texts, code, what that printed, and pictures, which are written to a folder."""
    parts = []
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        parts.append(source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```")
        for output in cell.get("outputs", ()):
            data = output.get("data", {})
            if "image/png" in data:
                pictures.mkdir(parents=True, exist_ok=True)
                name = f"{len(list(pictures.iterdir()))}.png"
                (pictures / name).write_bytes(b64decode(data["image/png"]))
                parts.append(f"![What the code above draws]({pictures.name}/{name})")
            elif printed := "".join(output.get("text", data.get("text/plain", ()))):
                parts.append(f"```text\n{printed.rstrip()}\n```")
    return "\n\n".join(parts) + "\n"


def stage(folder: Path) -> None:
    """Write ``mkdocs.yml`` and the pages, ready for the builder, into an empty folder."""
    folder.mkdir(parents=True)
    shutil.copy(ROOT / "mkdocs.yml", folder)
    for file in sorted(path for pattern in ("docs/**/*", *OUTSIDE) for path in ROOT.glob(pattern) if path.is_file()):
        path = file.relative_to(ROOT).as_posix()
        page = folder / "pages" / site_path(path)
        page.parent.mkdir(parents=True, exist_ok=True)
        if file.suffix == ".ipynb":
            notebook = json.loads(file.read_text(encoding="utf-8"))
            page.write_text(for_site(notebook_page(notebook, page.with_suffix("")), path), encoding="utf-8")
        elif file.suffix == ".md":
            head = BEHIND if site_path(path).startswith(ASIDE) else ""
            page.write_text(head + for_site(file.read_text(encoding="utf-8"), path), encoding="utf-8")
        else:
            shutil.copy(file, page)


def build(folder: Path) -> subprocess.CompletedProcess[str]:
    """Build what was staged; any warning is a failure. ``stderr`` holds what the builder said."""
    # Material for MkDocs prints a note on its successor at every start; why it is used all the same:
    # docs/decisions/37-pages-of-the-repository.md
    quiet = os.environ | {"NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(ROOT / "src")}
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--config-file", str(folder / "mkdocs.yml")]
    done = subprocess.run(command, env=quiet, capture_output=True, text=True, check=False)
    site = folder / "site"
    for page in (*site.glob("reference/*.html"), *site.glob("search/*.js*")):  # :class:`~spotkd.stages.Batch` as Batch
        page.write_text(ROLE.sub(r"<code>\1", page.read_text(encoding="utf-8")), encoding="utf-8")
    for page in site.rglob("*.html"):  # formulas; and the theme's dialog has no name for those who hear it
        text = page.read_text(encoding="utf-8").replace(DIALOG, f'{DIALOG} aria-label="Search"')
        page.write_text(FORMULA.sub(formula, text), encoding="utf-8")
    return done


if __name__ == "__main__":
    target = Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "build" / "docs")
    shutil.rmtree(target, ignore_errors=True)
    stage(target)
    done = build(target)
    print(done.stderr + done.stdout, end="")
    print(f"{target / 'site' / 'index.html'}" if done.returncode == 0 else "the site was not built")
    sys.exit(done.returncode)
