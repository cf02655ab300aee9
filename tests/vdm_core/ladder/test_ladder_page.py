"""The page from equations to code: what it names exists where it says."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs/ladder.md").read_text(encoding="utf-8")
LINKS = sorted(set(re.findall(r"\[`([\w.]+)`\]\((\S+?)\)", PAGE)))


def definitions(body: list[ast.stmt], prefix: str = "") -> set[str]:
    """The functions, classes and methods of a module, methods as Class.method."""
    names: set[str] = set()
    for node in body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            names.add(prefix + node.name)
            if isinstance(node, ast.ClassDef):
                names |= definitions(node.body, prefix=f"{node.name}.")
    return names


def test_each_link_leads_to_a_file_that_defines_what_it_names() -> None:
    wrong = []
    for name, target in LINKS:
        source = (ROOT / "docs" / target).read_text(encoding="utf-8")
        if name not in definitions(ast.parse(source).body):
            wrong.append(f"{target} does not define {name}")
    assert not wrong
    pictures = re.findall(r"!\[[^\]]+\]\((\S+)\)", PAGE)
    assert all((ROOT / "docs" / picture).is_file() for picture in pictures)
    links = re.findall(r"\[`[\w.]+`\]\(", PAGE)
    assert PAGE.count("](") == len(links) + len(pictures), "a link names code"


def test_the_page_names_every_file_of_the_ladder_but_its_sampling() -> None:
    files = {path.name for path in (ROOT / "vdm_core/ladder").glob("*.py")}
    linked = {Path(target).name for _, target in LINKS if "vdm_core/ladder" in target}
    assert files - linked == {"__init__.py", "sample.py"}
