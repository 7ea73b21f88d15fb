import pytest

from ptune.config.room import AUTO_BYTES, Room


@pytest.mark.parametrize(
    ("text", "room"),
    [
        ("off", None),
        ("auto", Room(AUTO_BYTES, disk=False)),
        ("500MB", Room(500_000_000, disk=False)),
        ("0.5 gb", Room(500_000_000, disk=False)),
        ("disk:2TB", Room(2 * 10**12, disk=True)),
    ],
)
def test_room_is_a_size_and_a_place(text, room):
    assert Room.parse(text) == room


@pytest.mark.parametrize("text", ["", "2", "GB", "2KB", "-1GB", "disk", "disk:auto", "2GB more"])
def test_anything_else_is_refused(text):
    with pytest.raises(ValueError) as error:  # noqa: PT011  # in full below
        Room.parse(text)
    assert str(error.value) == (
        f"{text} is not allowed. Allowed: auto, off, a size such as 500MB or 2GB (of main "
        "memory), or disk:20GB."
    )
