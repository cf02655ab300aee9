"""YAML files + `key=value` overrides -> one validated, frozen configuration.

Every mistake is reported at once, each with the nearest valid key or the allowed values, as one
`InputError`; nothing is guessed and nothing is ignored.
"""

import difflib
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError

from pipeline.errors import InputError
from pipeline.redact import secret_keys

T = TypeVar("T", bound=BaseModel)
Models = list[type[BaseModel]]
PRESETS = Path("jobs/presets")
_DEEPEST = 30  # levels of a configuration; the presets have five
_MOST_VALUES = 100_000  # of a file, aliases written out


def load_config(schema: type[T], files: Sequence[str], overrides: Sequence[str]) -> T:
    """Merge `files` in order, then `overrides` (`a.b=value`, value in YAML), and validate.

    Where a field takes one of several kinds, a later `kind` replaces the block of another kind (a
    block without one is of the usual kind, where there is one).

    Raises:
        InputError: a file that is missing or no mapping, a malformed override, an unknown key
            (named with the nearest valid one), a wrong type or value, a secret, which would be
            kept with the configuration. All of them in one message.
    """
    merged: dict[str, Any] = {}
    problems = []
    for read, sources in ((_read, files), (_parse_override, overrides)):
        layer: dict[str, Any] = {}
        for source in sources:
            try:
                layer = _merge(layer, read(source), [schema])
            except InputError as error:
                problems.append(str(error))
        merged = _merge(merged, layer, [schema])
    problems += [
        f"{key}: {shown} is a secret, and a configuration is kept and shown; give it by the "
        "environment, as SECURITY.md says"
        for key, shown in secret_keys(merged)
    ]
    try:
        config = schema.model_validate(merged)
    except ValidationError as error:
        # What a source that cannot be read would have given is not missing.
        unread = bool(problems)
        found = [p for p in error.errors() if not (unread and p["type"] == "missing")]
        problems += [_explain(schema, problem) for problem in found]
        if not files and any(problem["type"] == "missing" for problem in found):
            problems.append("no --config FILE was given; --help shows examples")
    if problems:
        place = ", ".join(files) or "the command line"
        raise InputError(f"configuration in {place}:\n  " + "\n  ".join(problems))
    return config


def _refusal(why: str, mark: yaml.Mark) -> yaml.YAMLError:
    return yaml.composer.ComposerError(None, None, why, mark)


class _Loader(yaml.SafeLoader):
    """YAML 1.2's numbers (1.1 reads `2e-4` as text), no key twice, and nothing that multiplies.

    Ten lines of aliases can stand for a milliard of values, and brackets can be nested for ever.
    """

    _depth = _values = 0

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._sizes: dict[int, int] = {}  # by node: the values that it stands for, once it is whole

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Build a node; raises a YAML error for too many values, or levels, and for a circle."""
        event = self.peek_event()  # type: ignore[no-untyped-call]
        before, again = self._values, isinstance(event, yaml.AliasEvent)
        self._depth += 1
        if self._depth > _DEEPEST:
            raise _refusal(f"over {_DEEPEST} levels deep", event.start_mark)
        node = super().compose_node(parent, index)
        self._depth -= 1
        if again and id(node) not in self._sizes:
            raise _refusal("an alias within what it stands for", event.start_mark)
        self._values += self._sizes[id(node)] if again else 1
        if self._values > _MOST_VALUES:
            raise _refusal(f"over {_MOST_VALUES:,} values", event.start_mark)
        self._sizes[id(node)] = self._values - before
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Build a mapping; raises a YAML error for a repeated key, whose first value would go."""
        keys = Counter(repr(self.construct_object(key, deep=True)) for key, _ in node.value)
        if repeated := [key for key, times in keys.items() if times > 1]:
            raise yaml.constructor.ConstructorError(
                None, None, f"key {repeated[0]} appears twice", node.start_mark
            )
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"),
    list("-+.0123456789"),
)


def _load_yaml(text: str) -> Any:
    return yaml.load(text, Loader=_Loader)


def _read(file: str) -> dict[str, Any]:
    path = Path(file)
    if not path.is_file():
        raise InputError(f"config file {file} does not exist{_near(path)}")
    try:
        content = _load_yaml(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError) as error:  # no text, or a number of thousands of digits
        raise InputError(f"config file {file} is not valid YAML: {error}") from None
    if content is not None and not isinstance(content, dict):
        raise InputError(
            f"config file {file} must hold a mapping of keys, not a {type(content).__name__}"
        )
    return content or {}


def _near(path: Path) -> str:
    """A file of nearly this name beside it, or among the presets."""
    for folder in (path.parent, PRESETS):
        names = [entry.name for entry in folder.iterdir()] if folder.is_dir() else []
        if near := difflib.get_close_matches(path.name, names, n=1):
            return f"; did you mean {folder / near[0]}?"
    return ""


def _parse_override(text: str) -> dict[str, Any]:
    key, separator, value = text.partition("=")
    if not separator or not all(key.split(".")) or key.count(".") > _DEEPEST:
        file = f"; a file is given by --config {text}" if text.endswith((".yaml", ".yml")) else ""
        raise InputError(
            f"override {text!r} is not of the form key=value (for example steps=100){file}"
        )
    try:
        tree = _load_yaml(value)
    except (yaml.YAMLError, ValueError) as error:
        raise InputError(f"override {text!r}: the value is not valid YAML: {error}") from None
    for part in reversed(key.split(".")):
        tree = {part: tree}
    return dict(tree)


def _merge(base: Mapping[str, Any], extra: Mapping[str, Any], models: Models) -> dict[str, Any]:
    """`extra` over `base`, both read as one of `models`."""
    merged = dict(base)
    for key, value in extra.items():
        old, below = merged.get(key), _below(models, key)
        if not isinstance(old, dict) or not isinstance(value, dict):
            merged[key] = value
        else:
            merged[key] = value if _changes_kind(old, value, below) else _merge(old, value, below)
    return merged


def _changes_kind(old: Mapping[str, Any], new: Mapping[str, Any], models: Models) -> bool:
    if len(models) < 2 or "kind" not in new:
        return False
    defaults = [m.model_fields["kind"].default for m in models if "kind" in m.model_fields]
    usual = next((kind for kind in defaults if isinstance(kind, str)), None)
    before = old.get("kind", usual)
    return before is not None and before != new["kind"]


def _explain(schema: type[BaseModel], problem: Any) -> str:
    """One line for one of pydantic's errors."""
    path, models = _locate(schema, problem["loc"])
    key = ".".join(path)
    if problem["type"] == "extra_forbidden":
        return f"{key}: unknown key; {_hint(key, models, schema)}"
    if problem["type"] == "missing":
        return f"{key}: required{_description(key, models)}"
    message = problem["msg"].removeprefix("Value error, ")
    given = problem.get("input")
    shown = "" if isinstance(given, dict | BaseModel) else f" (given: {given!r})"
    return f"{key}: {message}{shown}" if key else message


def _locate(schema: type[BaseModel], location: Sequence[int | str]) -> tuple[list[str], Models]:
    """Keys as a person writes them, and the models whose fields the last key is among.

    pydantic puts the kind of a union's member among the keys; here it chooses the model instead.
    """
    path: list[str] = []
    models: Models = [schema]
    parents = models
    for part in location:
        of_kind = [model for model in models if part in _kinds(model)]
        if len(models) > 1 and of_kind:
            models = of_kind
        else:
            path.append(str(part))
            parents, models = models, _below(models, str(part))
    return path, parents


def _description(key: str, models: Models) -> str:
    """What the field of this key is for, where it says."""
    leaf = key.rpartition(".")[2]
    fields = [model.model_fields[leaf] for model in models if leaf in model.model_fields]
    return f". {fields[0].description}" if fields and fields[0].description else ""


def _hint(key: str, models: Models, schema: type[BaseModel]) -> str:
    """The valid key that was probably meant: a sibling, else one elsewhere; or all siblings."""
    parent, dot, leaf = key.rpartition(".")
    siblings = [name for model in models for name in model.model_fields]
    near = difflib.get_close_matches(leaf, siblings, n=1)
    if near:
        return f"did you mean {parent}{dot}{near[0]}?"
    by_leaf = {path.rpartition(".")[2]: path for path in _field_paths(schema)}
    elsewhere = difflib.get_close_matches(leaf, by_leaf, n=1)
    if elsewhere:
        return f"did you mean {by_leaf[elsewhere[0]]}?"
    return f"valid are {', '.join(sorted(set(siblings)))}"


def _field_paths(schema: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name in schema.model_fields:
        yield prefix + name
        for model in _below([schema], name):
            yield from _field_paths(model, f"{prefix}{name}.")


def _below(models: Models, key: str) -> Models:
    """The models that the value of `key` may be of; the key of a dict field changes nothing."""
    fields = [model.model_fields[key] for model in models if key in model.model_fields]
    if not fields:
        return models
    return list(dict.fromkeys(b for field in fields for b in _models_in(field.annotation)))


def _kinds(model: type[BaseModel]) -> tuple[Any, ...]:
    field = model.model_fields.get("kind")
    return get_args(field.annotation) if field else ()


def _models_in(annotation: Any) -> Models:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for argument in get_args(annotation) for model in _models_in(argument)]
