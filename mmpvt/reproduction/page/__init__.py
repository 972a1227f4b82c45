"""The report as one HTML file, which makes no network requests."""

from __future__ import annotations

import base64
import hashlib
import html
from collections.abc import Sequence
from pathlib import Path

from mmpvt.reproduction.result_store import to_json
from mmpvt.utils.text import printable

FOLDER = Path(__file__).parent
SCRIPTS = ("elements", "charts", "confusion", "table", "gallery", "run", "model", "main")
TITLE = "Measured against published"
BUDGET = 16 * 2**20  # bytes of images in a page, in base64


def render(records: Sequence[dict], budget: int = BUDGET, title: str = TITLE) -> str:
    """The page.

    Args:
        records (Sequence[dict]): one a checkpoint, of any status.
        budget (int): bytes of all images together; beyond it, every model's least bad ones are
            dropped. Default: 16 MiB.
        title (str): of the page.

    Returns:
        str: HTML.
    """
    images, galleries = _pick(records, budget)
    models = [
        dict(record, gallery=gallery) for record, gallery in zip(records, galleries, strict=True)
    ]
    script = "".join((FOLDER / f"{name}.js").read_text("utf-8") for name in SCRIPTS)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    title = html.escape(printable(title))
    parts = {  # in the page's order
        "{{policy}}": (
            "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
            f"script-src 'sha256-{digest}'"
        ),
        "{{title}}": title,
        "{{style}}": (FOLDER / "page.css").read_text("utf-8"),
        "{{headline}}": title,
        "{{models}}": _embedded(models),
        "{{images}}": _embedded(images),
        "{{script}}": script,
    }
    page = (FOLDER / "page.html").read_text("utf-8")
    pieces = [page]
    for name, content in parts.items():  # what is inserted is not searched again
        head, _, tail = pieces.pop().partition(name)
        pieces += [head, content, tail]
    return "".join(pieces)


def _pick(records: Sequence[dict], budget: int) -> tuple[list[str], list[list[dict]]]:
    """Images, each once, and galleries that refer to them by index."""
    numbers: dict[str, int] = {}
    images: list[str] = []
    galleries: list[list[dict]] = [[] for _ in records]
    longest = max((len(record.get("gallery", ())) for record in records), default=0)
    for rank in range(longest):
        for record, gallery in zip(records, galleries, strict=True):
            entries = record.get("gallery", ())
            if rank >= len(entries):
                continue
            entry = dict(entries[rank])
            keys = [key for key in ("jpeg", "truth_map", "prediction_map") if key in entry]
            new = {entry[key] for key in keys} - numbers.keys()
            budget -= sum(map(len, new))
            if budget < 0:
                return images, galleries
            for key in keys:
                data = entry[key]
                if data not in numbers:
                    numbers[data] = len(images)
                    kind = "jpeg" if key == "jpeg" else "png"
                    images.append(f"data:image/{kind};base64,{data}")
                entry[key] = numbers[data]
            gallery.append(entry)
    return images, galleries


def _embedded(content: object) -> str:
    """JSON that can't end the script element that holds it."""
    text = to_json(content).decode()
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
