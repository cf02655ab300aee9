"""Print the project's tree, one line per file, from the first lines of the modules' docstrings.

`python infra/readme_tree.py --write` puts it between the tree markers of README.md.
"""

import ast
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("vdm_core", "pipeline", "jobs")
BEGIN, END = "<!-- tree: python infra/readme_tree.py --write -->\n", "<!-- end of tree -->\n"


def tree() -> str:
    """The rooms in order, folders before what is in them, each file with what it is for."""
    lines: list[str] = []
    for room in ROOMS:
        lines += _folder(ROOT / room, depth=0)
    return "```text\n" + "\n".join(lines) + "\n```\n"


def _folder(folder: Path, depth: int) -> list[str]:
    lines = [_line(f"{folder.name}/", folder / "__init__.py", depth)]
    entries = sorted(folder.iterdir(), key=lambda entry: (entry.is_dir(), entry.name))
    for entry in entries:
        if entry.is_dir() and (entry / "__init__.py").exists():
            lines += _folder(entry, depth + 1)
        elif entry.suffix == ".py" and entry.name != "__init__.py":
            lines.append(_line(entry.name, entry, depth + 1))
    return lines


def _line(name: str, file: Path, depth: int) -> str:
    docstring = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
    paragraph = " ".join(docstring.split("\n\n")[0].split())
    sentence = re.split(r"(?<!et al)\.(?: |$)|; ", paragraph)[0]
    return f"{'  ' * depth + name:<28} {sentence}"


def updated(readme: str) -> str:
    """README.md with its tree replaced. Raises ValueError where the markers are missing."""
    before, rest = readme.split(BEGIN)
    _, after = rest.split(END)
    return before + BEGIN + tree() + END + after


if __name__ == "__main__":
    path = ROOT / "README.md"
    if "--write" in sys.argv:
        path.write_text(updated(path.read_text(encoding="utf-8")), encoding="utf-8")
    else:
        print(tree())
