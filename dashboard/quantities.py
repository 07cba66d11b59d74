"""Quantities as people read them: durations, sizes, moments, measurements."""

from datetime import UTC, datetime


def duration(seconds: float | None) -> str:
    """Seconds as their two largest units, e.g. "1 h 04 min"; a dash when unknown."""
    if seconds is None or seconds < 0:
        return "–"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 86_400:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86_400} d {whole % 86_400 // 3600} h"


def ago(moment: datetime | None, now: datetime | None = None) -> str:
    """How long since a moment, e.g. "3 min ago"."""
    if moment is None:
        return "–"
    seconds = ((now or datetime.now(UTC)) - moment).total_seconds()
    if seconds < 5:
        return "just now"
    for unit, length in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{int(seconds // length)} {unit} ago"
    return f"{int(seconds)} s ago"


def clock(moment: datetime | None) -> str:
    """A moment in UTC, to the second."""
    return "–" if moment is None else moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def time_of_day(moment: datetime | None) -> str:
    """The UTC time of a moment, to the second."""
    return "–" if moment is None else moment.astimezone(UTC).strftime("%H:%M:%S")


def size(size_bytes: float) -> str:
    """Bytes with a decimal unit, e.g. "1.2 MB"."""
    value = float(size_bytes)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" or value >= 100 else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"


def mebibytes(megabytes: float) -> str:
    """MiB as they are counted for memory, in GiB from one on."""
    return f"{megabytes / 1024:.1f} GiB" if megabytes >= 1024 else f"{megabytes:.0f} MiB"


def measured(name: str, value: float | None) -> str:
    """A metric's value with the digits that matter for it."""
    if value is None:
        return "–"
    if name.endswith("_share"):
        return f"{value * 100:.2g} %" if 0 < value < 0.1 else f"{value * 100:.1f} %"
    if name.endswith("_per_s"):
        if value >= 10_000:
            return f"{value / 1000:.1f}k"
        return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"
    if value != 0 and (abs(value) < 1e-3 or abs(value) >= 1e6):
        return f"{value:.1e}"
    return f"{value:.4g}"
