"""
Which columns are sealed, and how what lies there comes to be sealed by the newest key.

Every column that may hold what somebody said is in `TABLES`; the place of a value is
``at("table.column", *its key)``, so that rows can be sealed anew without knowing what they are.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

#: How a column is sealed: by `seal` or `seal_same`, `seal_text`, `seal_json` (an object with ``$sealed``),
#: or `seal_values`; ``metadata`` is the latter with the clear keys at its top.
Form = Literal["bytes", "text", "json", "values", "metadata"]


@dataclass(frozen=True, slots=True)
class Table:
    """
    A table with sealed columns.

    Attributes:
        key: The columns of its primary key, in which order it is gone through.
        columns: The sealed ones, each with its form.
        place: Of which columns the place of a value is made; the key, if it is empty.
        named: What the place begins with, if not with the table's name.
        types: Types of key columns that are not text, for casts.
    """

    name: str
    key: tuple[str, ...]
    columns: Mapping[str, Form]
    place: tuple[str, ...] = ()
    named: str = ""
    types: Mapping[str, str] = field(default_factory=dict)


#: All of them; a test finds columns that are in neither this nor the list of those in the clear.
TABLES: Final[tuple[Table, ...]] = (
    Table(
        "checkpoint_blobs",
        ("thread_id", "checkpoint_ns", "channel", "version"),
        {"blob": "bytes"},
    ),
)
