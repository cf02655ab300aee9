"""Keeps secrets out of everything that is shown or stored: parameters, artifacts, messages.

A value is hidden when a word of its key says that it is a secret ("password", "access_key", …).
Inside any text, the user part of a URL and secret query parameters are hidden as well. What is kept
as it is, a configuration for example, may hold no secret at all: `secret_keys` finds those in it.
"""

import itertools
import re
from collections.abc import Iterator, Mapping
from typing import Any

HIDDEN = "***"

_WORDS = {"password", "passwd", "pwd", "secret", "token", "credential", "credentials"}
_WORDS |= {"authorization", "signature", "sig", "apikey"}
_PAIRS = {("api", "key"), ("access", "key"), ("private", "key"), ("account", "key")}
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_SCHEME = r"([A-Za-z][A-Za-z0-9+.-]*://)"
_PASSWORD = r"[^/\s:'\"@]*:(?!\d+\b)[^\s'\"]*@"  # may hold a "/", as AWS's do; a port is none
_USER_INFO = re.compile(rf"{_SCHEME}(?:{_PASSWORD}|[^/\s'\"]*@)")
_WITH_PASSWORD = re.compile(
    rf"{_SCHEME}(?:{_PASSWORD}|[^/\s'\"]*:[^/\s'\"]*@)|https?://[^/\s'\"]*@"
)
_QUERY = re.compile(r"([?&#])([^=&#\s]+)=([^&#\s'\"]+)")


def is_secret(key: str) -> bool:
    """True if a word of `key` (split at `_`, `-`, `.`, capitals) names a secret."""
    words = [word for word in re.split(r"[^a-z0-9]+", _CAMEL.sub("_", key).lower()) if word]
    pairs = itertools.pairwise(words)
    return any(word in _WORDS for word in words) or any(pair in _PAIRS for pair in pairs)


def redact_text(text: str) -> str:
    """`text` with the user part and the secret query parameters of its URLs hidden."""

    def hide(match: re.Match[str]) -> str:
        mark, key, _ = match.groups()
        return f"{mark}{key}={HIDDEN}" if is_secret(key) else match.group()

    return _QUERY.sub(hide, _USER_INFO.sub(rf"\1{HIDDEN}@", text))


def holds_secret(text: str) -> bool:
    """Whether a URL in `text` has a password, a token as its user, or a secret query parameter."""
    return bool(_WITH_PASSWORD.search(text)) or any(
        is_secret(k) for _, k, _ in _QUERY.findall(text)
    )


def secret_keys(tree: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Dotted key, and value made harmless, of every secret text in a tree of mappings and lists."""
    for key, value in tree.items():
        yield from _secrets(str(key), value, is_secret(str(key)))


def _secrets(key: str, value: Any, secret: bool) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping):
        for name, below in value.items():
            yield from _secrets(f"{key}.{name}", below, secret or is_secret(str(name)))
    elif isinstance(value, list | tuple):
        for number, below in enumerate(value):
            yield from _secrets(f"{key}.{number}", below, secret)
    elif isinstance(value, str) and ((secret and value) or holds_secret(value)):
        yield key, redact(value, secret=secret)


def redact(value: Any, *, secret: bool = False) -> Any:
    """A copy of a tree of mappings, sequences and scalars with every secret text hidden.

    `secret` marks the whole tree as secret, as a secret key does for all below it. Numbers,
    booleans and None pass: a secret is a text, and `token_width: 64` is none.
    """
    if isinstance(value, Mapping):
        return {k: redact(v, secret=secret or is_secret(str(k))) for k, v in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [redact(item, secret=secret) for item in value]
    if isinstance(value, str | bytes):
        if secret and value:
            return HIDDEN
        return redact_text(value) if isinstance(value, str) else value
    return value


def one_line(error: BaseException) -> str:
    """The first line of an error's message, at most 300 characters, without secrets."""
    text = redact_text(str(error).strip().partition("\n")[0]) or type(error).__name__
    return text if len(text) <= 300 else text[:299] + "…"
