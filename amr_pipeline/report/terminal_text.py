"""Texts of models, files and servers as a terminal may show them.

Such texts are hostile: an escape sequence can rewrite the screen, set a title or fill the clipboard, and a
direction mark can show words in another order than they stand.

Belongs here: making a text harmless, and cutting it. Does not belong here: what is shown.
"""

import re

_CONTROL_SEQUENCE = re.compile(r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]")
"""What moves cursors and sets colours. Of every other escape the introducer alone goes, so that no text is hidden."""


def plain(text: str, most: int | None = None) -> str:
    """One line of printable characters: what a terminal would act on is gone, runs of white space are one space.

    Args:
        text: anything.
        most: characters that are kept; a text that is cut says how many characters it had.
    """
    bare = "".join(sign if sign.isprintable() else " " for sign in _CONTROL_SEQUENCE.sub("", text))
    line = " ".join(bare.split())
    return line if most is None or len(line) <= most else f"{line[:most]}... ({len(text):,} characters)"


def ascii_json(document: str) -> str:
    """JSON text made with `ensure_ascii` where the one control character that JSON leaves as it is, is escaped too."""
    return document.replace("\x7f", "\\u007f")
