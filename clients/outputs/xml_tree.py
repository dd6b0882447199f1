"""Elements with text that may come from anywhere."""

import re
from xml.etree import ElementTree as ET

# XML 1.0, section 2.2: no control characters, no lone halves of a surrogate pair.
_FORBIDDEN = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def allowed(text: str) -> str:
    """The text with U+FFFD for what XML cannot hold."""
    return _FORBIDDEN.sub("\ufffd", text)


def add(parent: ET.Element, tag: str, text: str | None = None, **attributes: str) -> ET.Element:
    """A new last child."""
    child = ET.SubElement(parent, tag, {name: allowed(value) for name, value in attributes.items()})
    if text is not None:
        child.text = allowed(text)
    return child


def document(root: ET.Element) -> str:
    """The whole document, indented, in UTF-8."""
    ET.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(root, encoding="unicode")
