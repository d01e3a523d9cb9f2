"""``spotkd export --push-to-hub``: a folder with a student and its card, and its way to the Hugging Face Hub."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

from ..data.optional import import_optional
from ..errors import SpotkdError, one_line
from ..files import atomic_write
from ..options import ExportOptions
from ..runs.layout import CONFIG
from .card import model_card, read_finished, shareable_options
from .export import write_student
from .formats import FORMATS
from .student import load_student, named_data

_SHARED = (  # what a page shows of a run
    "scores", "protocol", "epoch", "epochs", "seconds", "shares", "device", "machine", "spotkd", "torch", "python",
)  # fmt: skip


class HubPage(NamedTuple):
    """A folder for the Hub, the names of its files, and the address where it is shown, if it was sent."""

    folder: Path
    files: list[str]
    address: str | None


def publish(options: ExportOptions) -> HubPage:
    """Write the folder and, unless ``card_only``, send it.

    Raises:
        SpotkdError: not a finished run; a name or a licence that the Hub does not take; files that already exist; or
            the Hub refuses: then the folder is left.
    """
    assert options.push_to_hub is not None
    repo = options.push_to_hub
    try:
        import_optional("huggingface_hub.utils", "hub").validate_repo_id(repo)
    except SpotkdError:
        raise
    except ValueError as error:
        raise SpotkdError(f"push_to_hub is {repo}: {one_line(error)}") from error
    if repo.count("/") != 1:
        raise SpotkdError(f"push_to_hub is {repo}: give USER/NAME")
    run_options, summary = read_finished(options.run)
    student = load_student(options.run, options.model, named_data(options), options.trust)
    wanted = dict.fromkeys(("safetensors", options.format))
    weights = {f"student{FORMATS[name].suffix}": name for name in wanted}
    card = model_card(repo, student, run_options, summary, list(weights), options.license)
    folder = Path(options.out or Path(options.run) / "hub")
    if folder.exists() and not options.overwrite:
        raise SpotkdError(f"{folder}: already exists; give another folder with --out, or replace it: --overwrite")
    for file, format_name in weights.items():
        write_student(student, format_name, folder / file, options.overwrite)
    known = summary.as_dict()
    content = student.metadata.as_dict() | {"summary": {key: known[key] for key in _SHARED}}
    texts = {
        "config.json": json.dumps(content, indent=2) + "\n",
        CONFIG: shareable_options(run_options),
        "README.md": card,
    }
    for name, text in texts.items():
        with atomic_write(folder / name) as path:
            path.write_text(text, encoding="utf-8")
    page = HubPage(folder, [*weights, *texts], None)
    return page if options.card_only else page._replace(address=_send(page, repo, options.private))


def _send(page: HubPage, repo: str, private: bool) -> str:
    """Make the repository if need be and send the files, in one commit; the address of its page.

    Raises:
        SpotkdError: it cannot be reached, or refuses.
    """
    hub = import_optional("huggingface_hub", "hub")
    api = hub.HfApi()
    try:
        address = api.create_repo(repo, private=private, exist_ok=True)
        api.upload_folder(
            repo_id=repo, folder_path=page.folder, allow_patterns=page.files, commit_message="Upload by spotkd"
        )
    except Exception as error:  # of the network, of the Hub, of the token: they have no common base
        raise SpotkdError(
            f"{repo}: cannot be sent to the Hub ({one_line(error)[:300]}); {page.folder} holds all of it"
        ) from error
    return str(address)
