"""How much a run may keep, and where: the value of `trunk_cache`.

>>> Room.parse("auto"), Room.parse("500MB"), Room.parse("disk:1.5GB"), Room.parse("off")
(Room(bytes=2000000000, disk=False), Room(bytes=500000000, disk=False), \
Room(bytes=1500000000, disk=True), None)
"""

import re
from typing import NamedTuple

ALLOWED = "auto, off, a size such as 500MB or 2GB (of main memory), or disk:20GB"
# What `auto` takes of the main memory, each process for itself.
AUTO_BYTES = 2_000_000_000

_UNITS = {"MB": 10**6, "GB": 10**9, "TB": 10**12}
_SIZE = re.compile(r"(disk:)?([0-9]+(?:\.[0-9]+)?) ?(MB|GB|TB)", re.IGNORECASE)


class Room(NamedTuple):
    """So many bytes of main memory, or of the disk."""

    bytes: int
    disk: bool

    @classmethod
    def parse(cls, text: str) -> "Room | None":
        """Read the setting; None is no room at all.

        Raises:
            ValueError: it is none of `ALLOWED`.
        """
        if text == "off":
            return None
        if text == "auto":
            return cls(AUTO_BYTES, disk=False)
        match = _SIZE.fullmatch(text)
        if match is None:
            raise ValueError(f"{text} is not allowed. Allowed: {ALLOWED}.")
        place, number, unit = match.groups()
        return cls(round(float(number) * _UNITS[unit.upper()]), disk=place is not None)
