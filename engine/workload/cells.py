"""Values in an uploaded file: numbers and times with their limits, and the sentences for bad ones."""

from __future__ import annotations

import calendar
import json
import math
import re
from typing import Any

MOST_ROWS = 200_000
MOST_TOKENS = 2**21
"""Tokens of a prompt or an output; beyond every context window on sale."""
LISTED = 20
LATEST_US = 2**53

_WHOLE = re.compile(r"[+-]?[0-9]{1,18}(\.0*)?")
_DECIMAL = re.compile(r"[+-]?([0-9]{1,18}(\.[0-9]{0,30})?|\.[0-9]{1,30})([eE][+-]?[0-9]{1,3})?")
_DATE = re.compile(
    r"([0-9]{4})-([0-9]{2})-([0-9]{2})[T ]([0-9]{2}):([0-9]{2}):([0-9]{2})(?:\.([0-9]{1,9}))?"
    r"(?:Z|([+-])([0-9]{2}):?([0-9]{2}))?"
)


class Refused(Exception):
    """Say in half a sentence why a file or a value cannot be used."""


class Faults:
    """Collect sentences: the first LISTED of them, then a count."""

    def __init__(self) -> None:
        self.first: list[str] = []
        self.more = 0

    def add(self, sentence: str) -> None:
        """Note one bad row."""
        if len(self.first) < LISTED:
            self.first.append(sentence)
        else:
            self.more += 1

    def cell(self, row: int, column: str, value: object, fault: str) -> None:
        """Note a row left out because of one value; `fault` says what is wrong and what to do."""
        self.add(f"Row {row}, column {shown(column, quote=False)}: {shown(value)} {fault}.")

    def sentences(self) -> list[str]:
        """Return all there is to say."""
        if not self.more:
            return self.first
        return [*self.first, f"{self.more:,} more rows were left out: correct those above and upload the file again."]


def shown(value: object, quote: bool = True) -> str:
    """Return a value as it may appear in a sentence: one short line, printable."""
    if isinstance(value, (list, dict)):
        return "a list" if isinstance(value, list) else "an object"
    said = value if isinstance(value, str) else str(value)
    said = "".join(c if c.isprintable() else "�" for c in said[:41])
    said = said if len(said) <= 40 else said[:37] + "..."
    return f"'{said}'" if quote and isinstance(value, str) else said


def whole(value: object, least: int, most: int) -> int:
    """Return a whole number within limits from a cell or a JSON value; raise Refused with what to do."""
    if isinstance(value, str) and _WHOLE.fullmatch(value):
        value = int(value.split(".")[0])
    elif isinstance(value, float) and math.isfinite(value) and value == math.floor(value):
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise Refused(f"is not a whole number: write one from {least:,} to {most:,} or leave the row out")
    if not least <= value <= most:
        raise Refused(f"is out of range: write a number from {least:,} to {most:,} or leave the row out")
    return value


def moment_us(value: object, unit_us: int) -> int:
    """Return microseconds, rounded to the nearest, from a number of units of `unit_us`."""
    if isinstance(value, str) and _DECIMAL.fullmatch(value):
        value = int(value) if _WHOLE.fullmatch(value) and "." not in value else float(value)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise Refused("is not a time: write a number or leave the row out")
    if not 0 <= value <= LATEST_US // unit_us:
        raise Refused("is out of range: write a time from 0 to 285 years or leave the row out")
    return value * unit_us if isinstance(value, int) else round(value * unit_us)


def date_us(value: str) -> int:
    """Return microseconds since 1970, rounded down, from a date and time like 2023-11-16 18:15:46.6805900."""
    found = _DATE.fullmatch(value)
    if not found:
        raise Refused("is not a date and time: write it like 2023-11-16 18:15:46.680 or leave the row out")
    year, month, day, hour, minute, second = (int(found[k]) for k in range(1, 7))
    if not (1970 <= year <= 2200 and 1 <= month <= 12 and hour < 24 and minute < 60 and second < 60):
        raise Refused("is no date and time from 1970 to 2200: correct it or leave the row out")
    if not 1 <= day <= calendar.monthrange(year, month)[1]:
        raise Refused("is no day of the calendar: correct it or leave the row out")
    seconds = calendar.timegm((year, month, day, hour, minute, second))
    if found[8]:
        seconds -= (1 if found[8] == "+" else -1) * (3600 * int(found[9]) + 60 * int(found[10]))
    return max(seconds, 0) * 1_000_000 + int((found[7] or "0").ljust(6, "0")[:6])


def parsed(text: str) -> Any:
    """Return a JSON value; raise Refused or ValueError when it is none, nested too deeply, or a number is too long."""
    try:
        return json.loads(text)
    except RecursionError:
        raise Refused("the JSON is nested too deeply: upload a flat list of requests") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"line {error.lineno} of the JSON is broken ({error.msg}): correct it") from None
    except ValueError:
        raise ValueError("a number in the JSON has thousands of digits: correct it") from None
