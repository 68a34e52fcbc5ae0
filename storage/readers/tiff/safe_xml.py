"""XML from a file's metadata, parsed without entities or document types.

So it can neither grow nor reach out.
"""

from __future__ import annotations

from xml.etree import ElementTree

# Real OME-XML of a plate reaches a few MiB.
_LONGEST = 64 << 20


def parse_xml(text: str) -> ElementTree.Element | None:
    """Return the root element, or None when the text is not plain, well-formed XML."""
    if len(text) > _LONGEST or "<!DOCTYPE" in text or "<!ENTITY" in text:
        return None
    try:
        # The text is decoded already: an encoding that the declaration names would be refused.
        if text.lstrip().startswith("<?xml"):
            _, _, text = text.partition("?>")
        return ElementTree.fromstring(text)
    except (ElementTree.ParseError, ValueError):
        return None


def local_name(element: ElementTree.Element) -> str:
    """Return an element's name without its namespace."""
    return element.tag.rpartition("}")[2]


def children(element: ElementTree.Element, name: str) -> list[ElementTree.Element]:
    """Return the direct children of a name, in any namespace.

    Writers use many versions of the same schema.
    """
    return [child for child in element if local_name(child) == name]
