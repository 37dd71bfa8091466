"""How values are said to people, and what people write is read."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import pytest

from undertow.console.moments import MomentUnreadable, moment
from undertow.console.wording import ago, duration, safe, size
from undertow.engine.states import EPOCH


@pytest.mark.parametrize(
    ("microseconds", "said"),
    [
        (0, "0 µs"), (949, "949 µs"), (950, "0.9 ms"), (9_940, "9.9 ms"), (9_960, "10 ms"), (999_400, "999 ms"),
        (999_600, "1.00 s"), (9_996_000, "10.0 s"), (59_990_000, "60.0 s"), (59_996_000, "1 min 00 s"),
        (125_000_000, "2 min 05 s"), (3_599_600_000, "1 h 00 min"), (90_061_000_000, "1 d 01 h"),
    ],
)  # fmt: skip
def test_durations_are_said_briefly(microseconds: int, said: str) -> None:
    """A duration has two or three digits and the unit that suits it."""
    assert duration(microseconds) == said


def test_moments_are_said_from_now() -> None:
    """A moment of the last days is said as how long ago it was, an older one as its date."""
    now = 1_767_225_600_000_000
    past = [ago(now - seconds * 1_000_000, now) for seconds in (3, 45, 200, 7200, 200_000)]
    assert past == ["just now", "45 s ago", "3 min ago", "2 h ago", "2 d ago"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", ago(now - 10**13, now))


def test_safe_text_spells_out_what_is_not_seen() -> None:
    """Control, format and surrogate characters are spelled out; letters, spaces and emoji are kept."""
    assert safe("a\x1b\r\n\t\x00\u2028\ud800 ß 漢 🌊") == r"a\x1b\r\n\t\x00\u2028\ud800 ß 漢 🌊"
    assert safe("two\nlines\x7f", keep="\n") == "two\nlines\\x7f"


@pytest.mark.parametrize(
    ("amount", "said"),
    [(0, "0 B"), (999, "999 B"), (1400, "1.4 kB"), (49_152, "49 kB"), (19_900_000, "20 MB"), (3_100_000_000, "3.1 GB")],
)
def test_sizes_are_said_briefly(amount: int, said: str) -> None:
    """A size has two or three digits and the unit that suits it."""
    assert size(amount) == said


NOON = datetime(2026, 3, 2, 12, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("now", NOON),
        ("90min", NOON - timedelta(minutes=90)),
        ("2 H", NOON - timedelta(hours=2)),
        ("1.5d", NOON - timedelta(hours=36)),
        ("1w", NOON - timedelta(weeks=1)),
        ("2026-02-28T14:00+01:00", datetime(2026, 2, 28, 13, tzinfo=UTC)),
        ("2026-02-28t13:00z", datetime(2026, 2, 28, 13, tzinfo=UTC)),
        ("2026-02-28", datetime(2026, 2, 28).astimezone()),
        ("2026-02-28 14:30", datetime(2026, 2, 28, 14, 30).astimezone()),
        ("14:30", NOON.astimezone().replace(hour=14, minute=30)),
        ("today", NOON.astimezone().replace(hour=0)),
        ("yesterday", NOON.astimezone().replace(day=1, hour=0)),
    ],
)
def test_moments_are_read_as_people_write_them(given: str, meant: datetime) -> None:
    """A date, a time, a day's name or how long ago; without a time zone, the machine's own is meant."""
    assert EPOCH + timedelta(microseconds=moment(given, NOON)) == meant


@pytest.mark.parametrize(
    "given", ["", "soon", "2026-13-01", "99999999d", "2 parsecs", "25:00", "9999-12-31T23:59-23:00"]
)
def test_what_is_no_moment_is_named(given: str) -> None:
    """What can't be read as a moment is named, with what can be written."""
    with pytest.raises(MomentUnreadable, match=f"^{re.escape(repr(given))} is no moment. Write a date"):
        moment(given, NOON)
