"""What MkDocs needs for links from docs/ to the rest of the checkout: those files become pages.

A page links to a config, a test or the changelog by its path in the checkout, which is right where
the repository is read. In the site, each file that is linked to becomes a page of its text, under
``source/``, and the changelog and the guide for contributors pages of their own. A notebook becomes
a page with the outputs that it was saved with.
"""

from __future__ import annotations

import json
import logging
import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
OWN_PAGES = ("CHANGELOG.md", "CONTRIBUTING.md")
LINK = re.compile(r"(\]\()([^)\s#:]+)((?:#[^)\s]*)?\))")
FETCHED = re.compile(r'<(?:script|link|img|iframe)\b[^>]*\b(?:src|href)="((?:https?:)?//[^"]+)"')
FENCED = re.compile(r"^( *)(`{3,}).*?^\1\2$", re.MULTILINE | re.DOTALL)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    pages = {DOCS / f.src_uri: f.src_uri for f in files.documentation_pages()}
    pages |= {ROOT / name: name for name in OWN_PAGES}
    pages |= {path: f"{path.stem}_notebook.md" for path in DOCS.glob("*.ipynb")}
    pending = list(pages)
    while pending:  # the pages made have links, too
        path = pending.pop()
        text = _read(path)
        if path.suffix in (".md", ".ipynb"):
            text = _relink(text, path, pages, pending)
        if known := files.get_file_from_path(pages[path]):
            known.content_string = text
        else:
            files.append(File.generated(config, pages[path], content=text))
    return files


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> None:
    for url in FETCHED.findall(output):
        message = "%s fetches %s: a page is to need no network"
        logging.getLogger("mkdocs.site").warning(message, page.file.src_uri, url)


def _read(path: Path) -> str:
    """The file as Markdown."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".md":
        return text
    if path.suffix == ".ipynb":
        return "\n\n".join(map(_cell, json.loads(text)["cells"]))
    language = path.suffix.removeprefix(".").replace("yml", "yaml")
    title = path.relative_to(ROOT).as_posix()
    return f"---\nsearch: {{exclude: true}}\n---\n# {title}\n\n````{language}\n{text}\n````\n"


def _cell(cell: dict) -> str:
    source = "".join(cell["source"])
    if cell["cell_type"] == "markdown":
        return source
    parts = [f"```python\n{source}\n```"]
    for output in cell["outputs"]:
        data = output.get("data", {})
        if "image/png" in data:
            png = "".join(data["image/png"]).replace("\n", "")
            parts.append(f'<img alt="The cell\'s output" src="data:image/png;base64,{png}">')
        else:
            text = "".join(output.get("text") or data.get("text/plain", ""))
            parts.append(f"```text\n{text.rstrip()}\n```")
    return "\n\n".join(parts)


def _relink(text: str, path: Path, pages: dict[Path, str], pending: list[Path]) -> str:
    """Has the links to files of the checkout lead to their pages, which are added."""

    def relink(match: re.Match) -> str:
        target = (path.parent / match[2]).resolve()
        if not target.is_relative_to(ROOT) or not target.is_file():
            return match[0]  # for MkDocs to complain about
        if target in pages:
            place = pages[target]
        elif target.is_relative_to(DOCS):  # a picture
            place = target.relative_to(DOCS).as_posix()
        else:
            place = f"source/{target.relative_to(ROOT).as_posix()}"
            pages[target] = place = place if target.suffix == ".md" else f"{place}.md"
            pending.append(target)
        folder = posixpath.dirname(pages[path]) or "."
        return match[1] + posixpath.relpath(place, folder) + match[3]

    parts, end = [], 0
    for fence in FENCED.finditer(text):
        parts += [LINK.sub(relink, text[end : fence.start()]), fence[0]]
        end = fence.end()
    return "".join((*parts, LINK.sub(relink, text[end:])))
