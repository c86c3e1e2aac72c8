"""Hooks of mkdocs: pages from Markdown files that stand outside `docs/`, and links that lead there.

On a code host a link such as `../data/README.md` opens the file. On the site it opens the page made of it; a link to
any other file of the repository becomes plain text, because the site holds no sources.
"""

import os
import re
from pathlib import Path

from mkdocs.structure.files import File

ROOT = Path(__file__).parents[1]
OUTSIDE = {
    "data/README.md": "datasets.md",
    "benchmarks/README.md": "benchmarks.md",
    "SECURITY.md": "security.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
}
# [text](path#anchor), not a URL and not an anchor alone
_LINK = re.compile(r"(?<!!)\[([^\]]+)\]\((?!https?:|mailto:|#)([^)#\s]+)(#[^)]*)?\)")


def on_files(files, config):
    for path, page in OUTSIDE.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown, page, **_):
    folder = Path(page.file.abs_src_path).parent

    def on_site(link):
        text, path, anchor = link[1], link[2], link[3] or ""
        target = Path(os.path.normpath(folder / path)).relative_to(ROOT).as_posix()
        there = OUTSIDE.get(target, target.removeprefix("docs/") if target.startswith("docs/") else None)
        if there is None or there.startswith("evidence/"):
            return text
        return f"[{text}]({os.path.relpath(there, Path(page.file.src_uri).parent)}{anchor})"

    return _LINK.sub(on_site, markdown)
