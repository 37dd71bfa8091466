"""How values are said to a person: durations, moments, counts, and text that somebody else wrote, made safe to print.

Pure functions on plain values; the clock is an argument.
"""

from __future__ import annotations

from ..engine.screen import escaped
from ..engine.states import moment


def safe(text: str, keep: str = "") -> str:
    """The text with every control and invisible character written out, but for those in `keep`.

    What a program called its runs, and what its exceptions say, must not be able to move the cursor, change colours or
    turn the direction of writing.
    """
    return escaped(text, keep)


def cut(text: str, length: int) -> str:
    """The text on one line, and no longer than that."""
    line = safe(" ".join(text.split()))
    return line if len(line) <= length else line[: length - 1] + "…"


def block(text: str) -> list[str]:
    """Text of several lines, each made safe; tabs are widened."""
    return [safe(line) for line in text.expandtabs(4).removesuffix("\n").split("\n")]


def duration(microseconds: int) -> str:
    """`40 µs`, `1.2 ms`, `120 ms`, `1.24 s`, `2 min 05 s`, `3 h 07 min`, `2 d 04 h`."""
    if microseconds < 950:
        return f"{microseconds} µs"
    seconds = microseconds / 1e6
    if seconds < 0.9995:
        milliseconds = seconds * 1000
        return f"{milliseconds:.1f} ms" if milliseconds < 9.95 else f"{milliseconds:.0f} ms"
    if seconds < 59.995:
        return f"{seconds:.2f} s" if seconds < 9.995 else f"{seconds:.1f} s"
    whole = round(seconds)
    for unit, size, part, part_size in (("min", 60, "s", 1), ("h", 3600, "min", 60), ("d", 86_400, "h", 3600)):
        if whole < size * (24 if unit == "h" else 60) or unit == "d":
            return f"{whole // size} {unit} {whole % size // part_size:02d} {part}"
    raise AssertionError("days have no end")


def ago(at: int, now: int) -> str:
    """`just now`, `40 s ago`, `3 min ago`, `5 h ago`, `2 d ago`, else the date."""
    seconds = (now - at) // 1_000_000
    if seconds < 10:
        return "just now"
    for unit, size, below in (("s", 1, 60), ("min", 60, 3600), ("h", 3600, 86_400), ("d", 86_400, 864_000)):
        if seconds < below:
            return f"{seconds // size} {unit} ago"
    return local(at)[:10]


def local(at: int) -> str:
    """A moment in the time zone of the machine, to the second."""
    return moment(at).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def clock(at: int) -> str:
    """A moment in the time zone of the machine, to the millisecond."""
    return moment(at).astimezone().strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]


def iso(at: int | None) -> str | None:
    """A moment in UTC, ISO-8601 with microseconds, as the journal's views say it."""
    return None if at is None else moment(at).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def counted(number: int, noun: str, nouns: str | None = None) -> str:
    """`1 task`, `300 tasks`."""
    return f"{number:,} {noun if number == 1 else nouns or noun + 's'}"


def size(amount: int) -> str:
    """`812 B`, `1.4 kB`, `20 MB`, `3.1 GB`."""
    value = float(amount)
    for unit in ("B", "kB", "MB"):
        if value < 999.5:
            return f"{value:.0f} {unit}" if unit == "B" or value >= 9.95 else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} GB" if value < 9.95 else f"{value:,.0f} GB"
