"""The rules for cleaning once more, in plain Python over a list of rows: what table and frame are held against.

It shares nothing with the package but the rules' fields: no SQL, no engine.
"""

import math
import re
import statistics
import unicodedata
from collections import Counter
from datetime import timezone
from zoneinfo import ZoneInfo

from ml_notebooks.data.rules import (
    AsMissing,
    Categories,
    Duplicates,
    Missing,
    Outliers,
    Text,
    TimeZone,
    Types,
)

KINDS = {"n": "whole", "x": "float", "s": "text", "t": "clock"}  # the columns of the generated rows
SUITED = {
    Text: {"text"},
    Outliers: {"whole", "float"},
    Categories: {"text"},
}
LIMITS = {"iqr": 1.5, "zscore": 3.0, "quantile": 0.01}


class Recipe:
    """Rules that have learned from rows, and what they did to others."""

    def __init__(self, rules, rows):
        self.rules, self.learned = rules, []
        kinds = dict(KINDS)
        for rule in rules:
            self.learned.append(learn(rule, rows, kinds))
            rows, kinds, _ = apply(rule, rows, kinds, self.learned[-1])

    def clean(self, rows):
        """The rows that are left, and for each rule and column what was changed, filled, emptied and dropped."""
        kinds, counts = dict(KINDS), []
        for step, (rule, learned) in enumerate(zip(self.rules, self.learned, strict=True), 1):
            rows, kinds, found = apply(rule, rows, kinds, learned)
            counts += [(step, *one) for one in found]
        return rows, counts


def concerned(rule, kinds):
    """The columns that a rule is about."""
    if isinstance(rule, Types):
        return list(rule.types)
    if isinstance(rule, AsMissing) and not rule.columns:
        sought = {kind for value in rule.values for kind in (["text"] if isinstance(value, str) else ["whole", "float"])}
        return [name for name, kind in kinds.items() if kind in sought]
    if rule.columns:
        return list(rule.columns)
    suited = SUITED[type(rule)] if type(rule) in SUITED else _kinds_of_missing(rule)
    return [name for name, kind in kinds.items() if kind in suited]


def _kinds_of_missing(rule):
    if rule.how == "value":
        return {"whole", "float"} if isinstance(rule.value, int) else {"text", "clock", "instant"}
    everything = {"whole", "float", "text", "clock", "instant", "truth"}
    return {"most frequent": {"text", "truth"}, "drop": everything}.get(rule.how, {"whole", "float"})


def learn(rule, rows, kinds):
    """What a rule must know: column -> value."""
    if isinstance(rule, Missing) and rule.how not in ("value", "drop"):
        return {name: _typical(rule.how, _known(rows, name), kinds[name]) for name in concerned(rule, kinds)}
    if isinstance(rule, Outliers):
        return {name: _fence(rule, _known(rows, name)) for name in concerned(rule, kinds)}
    if isinstance(rule, Categories) and not rule.keep:
        return {name: _frequent(rule, _known(rows, name)) for name in concerned(rule, kinds)}
    return {}


def _known(rows, name):
    return [row[name] for row in rows if row[name] is not None]


def _typical(how, values, kind):
    if not values:
        return None
    if how == "most frequent":
        return min(Counter(values).items(), key=lambda item: (-item[1], item[0]))[0]
    value = statistics.median(values) if how == "median" else sum(values) / len(values)
    return value if kind == "float" else math.floor(abs(value) + 0.5) * (1 if value >= 0 else -1)


def _quantile(values, share):
    values, place = sorted(values), (len(values) - 1) * share
    low, high = values[math.floor(place)], values[math.ceil(place)]
    return low + (high - low) * (place - math.floor(place))


def _fence(rule, values):
    k = LIMITS[rule.method] if rule.limit is None else rule.limit
    if not values or (rule.method == "zscore" and len(values) < 2):
        return -math.inf, math.inf
    if rule.method == "zscore":
        mean, spread = sum(values) / len(values), statistics.stdev(values)
        return mean - k * spread, mean + k * spread
    if rule.method == "quantile":
        return _quantile(values, k), _quantile(values, 1 - k)
    low, high = _quantile(values, 0.25), _quantile(values, 0.75)
    return low - k * (high - low), high + k * (high - low)


def _frequent(rule, values):
    counts = Counter(rule.rename.get(value, value) for value in values)
    return {value for value, count in counts.items() if count >= rule.at_least * len(values)}


def apply(rule, rows, kinds, learned):
    """The rows that are left, the kinds of the columns, and (column, changed, filled, emptied, dropped)."""
    if isinstance(rule, Duplicates):
        kept = _once(rule, rows, list(kinds))
        return kept, kinds, [("", 0, 0, 0, len(rows) - len(kept))]
    named = concerned(rule, kinds)
    if isinstance(rule, Missing) and rule.how == "drop":
        kept = [row for row in rows if all(row[name] is not None for name in named)]
        return kept, kinds, [("", 0, 0, 0, len(rows) - len(kept))]
    if isinstance(rule, Outliers) and rule.action == "drop":
        kept = [row for row in rows if all(_inside(row[name], learned[name]) for name in named)]
        return kept, kinds, [("", 0, 0, 0, len(rows) - len(kept))]
    marked = isinstance(rule, Missing) and rule.mark
    marks = {f"{name}_missing": name for name in named} if marked else {}
    new = [
        row
        | {mark: row[name] is None for mark, name in marks.items()}
        | {name: value(rule, row[name], kinds[name], learned.get(name)) for name in named}
        for row in rows
    ]
    after = kinds | dict.fromkeys(marks, "truth") | _new_kinds(rule, named)
    replaced = [*(mark for mark in marks if mark in kinds), *named]  # a mark that an earlier rule made is made anew
    return new, after, [(name, *_count(rows, new, name, isinstance(rule, Types)), 0) for name in replaced]


def _new_kinds(rule, named):
    if isinstance(rule, Types):
        return {name: {"BIGINT": "whole", "DOUBLE": "float"}[kind] for name, kind in rule.types.items()}
    return dict.fromkeys(named, "instant") if isinstance(rule, TimeZone) else {}


def _count(before, after, name, as_text):
    pairs = [(old[name], new[name]) for old, new in zip(before, after, strict=True)]
    both = [(old, new) for old, new in pairs if old is not None and new is not None]
    changed = sum(
        str(old) != str(new) if as_text else old != new.replace(tzinfo=None) if hasattr(new, "hour") else old != new
        for old, new in both
    )
    filled = sum(old is None and new is not None for old, new in pairs)
    return changed, filled, sum(old is not None and new is None for old, new in pairs)


def _inside(value, fence):
    return value is None or fence[0] <= value <= fence[1]


def _once(rule, rows, names):
    keys = rule.keys or names
    rest = [name for name in names if name not in keys and name != rule.latest]

    def place(row):
        last = () if rule.latest is None else ((row[rule.latest] is None, _backwards(row[rule.latest])),)
        return (*last, *((row[name] is None, row[name] if row[name] is not None else 0) for name in rest))

    chosen = {}
    for row in rows:
        key = tuple(row[name] for name in keys)
        if key not in chosen or place(row) < place(chosen[key]):
            chosen[key] = row
    return list(chosen.values())


def _backwards(value):
    return 0 if value is None else -value.timestamp() if hasattr(value, "timestamp") else -value


def value(rule, old, kind, learned):
    """The new value of a column."""
    if isinstance(rule, AsMissing):
        alike = [one for one in rule.values if isinstance(one, str) == isinstance(old, str)]
        return None if old in alike else old
    if isinstance(rule, Missing):
        filling = rule.value if rule.how == "value" else learned
        return filling if old is None else old
    if old is None:
        return None
    return {Text: _text, Types: _typed, TimeZone: _instant, Outliers: _clipped, Categories: _category}[type(rule)](
        rule, old, kind, learned
    )


def _is_space(letter):
    return letter in " \t\n\r\f" or unicodedata.category(letter).startswith("Z")


def _text(rule, old, kind, learned):
    text = unicodedata.normalize("NFC", old)
    spaces = "".join(sorted({letter for letter in text if _is_space(letter)}))
    text = text.strip(spaces) if rule.strip and spaces else text
    text = re.sub(f"[{re.escape(spaces)}]+", " ", text) if rule.squeeze and spaces else text
    text = {"as is": text, "lower": text.lower(), "upper": text.upper()}[rule.case]
    return None if rule.empty_is_missing and not text else text


def _typed(rule, old, kind, learned):
    try:
        return int(old)
    except ValueError:
        return None


def _instant(rule, old, kind, learned):
    zone = ZoneInfo(rule.zone)
    first, second = (old.replace(tzinfo=zone, fold=fold).astimezone(timezone.utc) for fold in (0, 1))
    if first.astimezone(zone).replace(tzinfo=None) != old:  # the clock never showed it
        return first if rule.never == "shift" else None
    return {"first": first, "second": second, "null": first if first == second else None}[rule.twice]


def _clipped(rule, old, kind, learned):
    low, high = learned
    if low <= old <= high:
        return old
    if rule.action == "null":
        return None
    moved = low if old < low else high
    return moved if kind == "float" else math.ceil(moved) if old < low else math.floor(moved)


def _category(rule, old, kind, learned):
    new = rule.rename.get(old, old)
    return new if new in (rule.keep or learned) else rule.other
