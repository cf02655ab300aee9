"""Which keys and texts hold secrets, and which only look as if they did."""

import pytest

from pipeline.redact import is_secret, one_line, redact, redact_text


@pytest.mark.parametrize(
    "key", ["password", "AWS_SECRET_ACCESS_KEY", "hfToken", "db.api-key", "credentials.s3.name"]
)
def test_secret_keys_are_recognised(key):
    """Keys are split into words at underscores, dots, hyphens and capitals."""
    assert is_secret(key)
    assert redact({key: "v"}) == {key: "***"}


def test_what_is_no_secret_stays():
    """Words that merely contain one, and numbers, are not hidden."""
    config = {"tokens": "16x16", "token_width": 64, "passport": "x", "keys": ["a"]}
    assert redact(config) == config
    assert redact_text("mail a@b.org about http://c.d/e?page=2") == (
        "mail a@b.org about http://c.d/e?page=2"
    )


def test_messages_are_one_short_line_without_secrets():
    """What a library says about an address ends up in logs: one line, cut, secrets hidden."""
    error = ValueError("no answer from http://me:hunter2@host/x?sig=a&token=hunter2\nTraceback …")
    assert one_line(error) == "no answer from http://***@host/x?sig=a&token=***"
    assert len(one_line(ValueError("x" * 1000))) == 300
    assert one_line(TimeoutError()) == "TimeoutError"
