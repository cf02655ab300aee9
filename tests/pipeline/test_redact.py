"""Which keys and texts hold secrets, and which only look as if they did."""

import pytest

from pipeline.redact import holds_secret, is_secret, one_line, redact, redact_text, secret_keys


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


@pytest.mark.parametrize(
    "url",
    [
        "s3://AKID:hun/ter2+@bucket/set",  # AWS's secret keys have slashes
        "http://me:hunter2@host:5000/x",
        "https://hunter2@host/x",
        "http://me:hun@ter2@[::1]:5000",
        "https://host/x?sv=1&sig=hunter2",
        "https://host/#access_token=hunter2",
    ],
)
def test_secrets_in_urls_are_found_and_hidden(url):
    """Wherever they stand, and whatever characters they have."""
    assert holds_secret(f"cannot reach {url}: no answer")
    assert "hun" not in redact_text(f"cannot reach {url}: no answer")


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://mlflow@db:5432/mlflow",
        "http://host:5000/#/experiments/1",
        "http://host:5000/models/a@v1",
        "s3://bucket/model@v1/x?page=2",
    ],
)
def test_names_ports_and_versions_are_no_secrets(url):
    """An address of a user without password is one that people write."""
    assert not holds_secret(url)


def test_secrets_in_a_tree_are_named_by_their_keys():
    """By key and by value; what is shown of them is harmless."""
    tree = {
        "a": [{"token": "hunter2"}, "http://me:hunter2@host"],
        "password": {"of": "hunter2"},
        "token_width": 64,
        "token": "",
    }
    assert list(secret_keys(tree)) == [
        ("a.0.token", "***"), ("a.1", "http://***@host"), ("password.of", "***"),
    ]  # fmt: skip


def test_messages_are_one_short_line_without_secrets():
    """What a library says about an address ends up in logs: one line, cut, secrets hidden."""
    error = ValueError("no answer from http://me:hunter2@host/x?page=a&token=hunter2\nTraceback …")
    assert one_line(error) == "no answer from http://***@host/x?page=a&token=***"
    assert len(one_line(ValueError("x" * 1000))) == 300
    assert one_line(TimeoutError()) == "TimeoutError"
