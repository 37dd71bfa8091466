"""Secrets: given to bodies, and in no file, log or message; and the hiding of what has a telling name."""

from __future__ import annotations

import copy
import json
import logging
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest
from click.testing import CliRunner

from undertow import (
    FLOW_PARAMETERS,
    INPUTS,
    Engine,
    ParameterInvalid,
    ProcessRunner,
    ResultNotSerializable,
    Secret,
    SecretNotRecordable,
    UncacheableArgument,
    flow,
    get_run_logger,
    task,
)
from undertow.console.command import cli
from undertow.engine.parameters import as_json

pytestmark = pytest.mark.real_time

CANARY = "canary-5f2b9c"


@task
def sign_in(token: Secret[str], user: str) -> int:
    get_run_logger().info("signing in %s with %s", user, token)
    return len(token.reveal())


@task
def careless(token: Secret[str]) -> None:
    raise KeyError(token, {"token": token})


def measure(token: Secret[str]) -> int:
    """What a worker process does."""
    return len(token.reveal())


measured = task(measure)


@flow(log_prints=True)
def deploy(token: Secret[str], spare: Secret[str] | None = None, *others: Secret[str]) -> int:
    print("with", token, spare, f"{token:>30}", [*others])
    careless(token, return_state=True)
    return sign_in(token, "ada") + sign_in.submit(token=token, user="bob").result()


def everything_in(folder: Path) -> bytes:
    return b"".join(file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file())


@pytest.mark.parametrize("arguments", [(Secret(CANARY),), (CANARY,), (CANARY, CANARY, CANARY)], ids=["S", "text", "3"])
def test_in_no_file_and_no_log(arguments: tuple[Any, ...], tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A secret reaches every body, and stands in no file of the journal's, no log, no error and no report, however it was given."""
    caplog.set_level(logging.DEBUG)
    path = tmp_path / "app.db"
    with Engine(path):
        assert deploy(*arguments, return_state=True).is_completed()
        held = everything_in(tmp_path)
        assert b"sign_in" in held
        assert CANARY.encode() not in held
    for verb in ("show", "logs", "why", "report", "ls"):
        told = CliRunner().invoke(cli, [verb, "--journal", str(path), *(["-o", "-"] if verb == "report" else [])])
        assert told.exception is None or isinstance(told.exception, SystemExit)
        assert CANARY not in told.output
    assert CANARY.encode() not in everything_in(tmp_path)
    assert "***" in caplog.text
    assert CANARY not in caplog.text


def test_shown_nowhere() -> None:
    """A secret shows as three stars in every form of text, and stays itself when it is copied or compared."""
    secret = Secret([CANARY])
    assert {repr(secret), str(secret), f"{secret}", f"{secret!r:}", "%s" % secret, f"{Secret(3):08.2f}"} == {"***"}  # noqa: UP031
    assert copy.deepcopy(secret) is copy.copy(secret) is secret
    assert secret == Secret([CANARY]) != Secret([]) != [CANARY]
    assert Secret(secret).reveal() == [CANARY]
    assert hash(Secret(1)) == hash(Secret(1))


def test_a_durable_flow_refuses_it(tmp_path: Path) -> None:
    """A durable flow refuses a secret when it is called, naming the parameter and what to do, and nothing is written."""

    @flow(durable=True)
    def lasting(token: Secret[str]) -> None: ...

    @flow(durable=True)
    def holding(settings: dict[str, Any]) -> None: ...

    with Engine(tmp_path / "app.db"):
        for given in (CANARY, Secret(CANARY)):
            with pytest.raises(
                SecretNotRecordable, match=r"^Parameter 'token' of durable flow 'lasting' is a Secret.*Read"
            ):
                lasting(given)  # type: ignore[arg-type]
        with pytest.raises(ResultNotSerializable, match="'token'"):
            holding({"token": Secret(CANARY)})
    assert CANARY.encode() not in everything_in(tmp_path)


def test_no_result(tmp_path: Path) -> None:
    """A secret that would be written down as a result fails its task, whatever it is written with."""
    for serializer in ("msgpack", "pickle"):

        @task(cache_policy=FLOW_PARAMETERS, result_serializer=serializer)
        def leak() -> Secret[str]:
            return Secret(CANARY)

        @flow
        def around(n: int) -> None:
            leak()

        with Engine(tmp_path / "app.db"), pytest.raises(ResultNotSerializable, match="Secret"):
            around(1)
    assert CANARY.encode() not in everything_in(tmp_path)
    with pytest.raises(TypeError, match="never written down"):
        pickle.dumps(Secret(CANARY))


def test_no_cache_key() -> None:
    """A secret can't be part of a cache key, not even as a digest."""

    @task(cache_policy=INPUTS)
    def cached(token: Secret[str]) -> int:
        return 1

    with Engine(":memory:"), pytest.raises(UncacheableArgument, match="INPUTS - 'token'"):
        cached(Secret(CANARY))


def test_cached_by_parameters_that_are_hidden() -> None:
    """A cache by the flow's parameters tells apart what is hidden or cut where these are recorded."""

    @task(cache_policy=FLOW_PARAMETERS)
    def whose(it: Any) -> Any:
        return it

    @flow
    def around(password: Any) -> Any:
        return whose(password)

    with Engine(":memory:"):
        assert [around("ada's"), around("bob's"), around("ada's")] == ["ada's", "bob's", "ada's"]
        long = [*range(50_000)]
        assert around([*long, 1])[-1] == 1
        assert around([*long, 2])[-1] == 2


def test_in_a_worker_process() -> None:
    """A secret goes to a task in a worker process as it is."""
    with Engine(":memory:"):
        assert measured.with_options(runner=ProcessRunner(1)).submit(Secret(CANARY)).result() == len(CANARY)


# --- annotated -------------------------------------------------------------------------------------------------------


def test_plain_arguments_are_wrapped() -> None:
    """A flow's parameter annotated as a secret is wrapped when it is given plainly, by name, as one of many, or by a future."""

    @flow
    def take(one: Secret[str], two: Secret[int] | None = None, *more: Secret[str]) -> list[Any]:
        return [one, two, *more]

    @task
    def make() -> str:
        return "made"

    @flow
    def around() -> Any:
        return take(make.submit())  # type: ignore[arg-type]

    with Engine(":memory:"):
        assert take("a", 2, "c") == [Secret("a"), Secret(2), Secret("c")]  # type: ignore[arg-type]
        assert take(one="a") == [Secret("a"), None]  # type: ignore[arg-type]
        assert around() == [Secret("made"), None]


@pytest.mark.parametrize("annotation", [Secret[int], int], ids=["annotated", "named"])
def test_wrong_type_is_not_told(annotation: Any, caplog: pytest.LogCaptureFixture) -> None:
    """The error about a secret of the wrong type does not tell its value."""

    def body(token: Any) -> None: ...

    body.__annotations__["token"] = annotation
    with (
        Engine(":memory:"),
        pytest.raises(ParameterInvalid, match=r"'token' of flow 'body' must be int, not \*\*\*") as caught,
    ):
        flow(body)(CANARY)
    assert CANARY not in str(caught.value) + caplog.text


# --- telling names ---------------------------------------------------------------------------------------------------


@attrs.frozen
class Account:
    user: str
    password: str


TELLING = ("password", "db_password", "DB_PASSWORD", "apiKey", "X-Api-Key", "api_key", "token", "githubToken", "secret")
TELLING += (
    "Authorization",
    "credentials",
    "AWS_SECRET_ACCESS_KEY",
    "privateKey",
    "passphrase",
    "auth",
    "cookie",
    "pwd",
)
PLAIN = (
    "author",
    "max_tokens",
    "token_count",
    "passage",
    "key",
    "monkey",
    "bypass",
    "compass",
    "keyword",
    "tokens",
    "",
)


@pytest.mark.parametrize("name", TELLING)
def test_telling_names_are_hidden(name: str) -> None:
    """What is called a password, token, key and the like is hidden where parameters are recorded, at any depth, and in what objects say of themselves."""
    given = {
        name: CANARY,
        "deep": [{"more": {name: [CANARY]}}],
        "account": Account("ada", CANARY),
        "set": ({name: CANARY}, {1}),
    }
    recorded = as_json(given)
    assert CANARY not in recorded
    assert json.loads(recorded)[name] == "***"
    assert json.loads(recorded)["deep"] == [{"more": {name: "***"}}]
    assert json.loads(recorded)["account"] == "Account(user='ada', password=***)"
    assert CANARY not in as_json({"many": [{name: CANARY, "n": n} for n in range(10_000)]})


@pytest.mark.parametrize("name", PLAIN)
def test_other_names_are_shown(name: str) -> None:
    """Names that only look like that are recorded with their values; so is that a secret was not given."""
    assert json.loads(as_json({name: CANARY, "password": None})) == {name: CANARY, "password": None}


def holds_itself() -> list[Any]:
    circle: list[Any] = ["a"]
    circle.append(circle)
    return circle


class Unspeakable:
    def __repr__(self) -> str:
        raise RuntimeError


@pytest.mark.parametrize(
    ("make", "recorded"),
    [
        (holds_itself, "['a', [...]]"),
        (Unspeakable, "<Unspeakable whose repr raised RuntimeError>"),
        (lambda: {"n": float("nan")}, "{'n': nan}"),
        (lambda: (1, [2, (Secret(3),)]), [1, [2, ["***"]]]),
    ],
)
def test_odd_parameters(make: Callable[[], Any], recorded: Any) -> None:
    """Values that JSON can't say, and those that hold themselves, are recorded as their text."""
    assert json.loads(as_json({"x": make()})) == {"x": recorded}
