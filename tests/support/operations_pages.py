"""The pages of docs/operations: their commands, and what they say one sees."""

import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
ORDER = ("starting", "watching", "stopping", "resuming", "resizing", "upgrading", "alarms")
PAGES = {page: (ROOT / f"docs/operations/{page}.md").read_text("utf-8") for page in ORDER}
_BLOCK = re.compile(r"```bash\n(?P<commands>.*?)```(?:\n+```text\n(?P<seen>.*?)```)?", re.DOTALL)


class Block(NamedTuple):
    """Commands that belong together, and lines that their output has when they worked."""

    page: str
    commands: tuple[str, ...]
    seen: tuple[str, ...]


def blocks(page: str) -> list[Block]:
    """The blocks of a page in order; a text block that follows the commands is what they say."""
    return [
        Block(page, *(tuple((match[part] or "").splitlines()) for part in ("commands", "seen")))
        for match in _BLOCK.finditer(PAGES[page])
    ]


def missing(seen: tuple[str, ...], output: str) -> list[str]:
    """The lines of a page that no line of `output` agrees with; `…` stands for anything."""
    lines = re.sub(r"\x1b\[\d+m", "", output)  # Ray colours its own
    return [line for line in seen if not re.search(pattern(line), lines)]


def pattern(line: str) -> str:
    """A line of a page as a regular expression."""
    parts = (re.escape(part.strip()) for part in line.split("…"))
    return r".*".join(re.sub(r"(?:\\ )+", r"\\s+", part) for part in parts)
