"""Elements of HTML and SVG, built as values and written out by the standard library, which escapes every text.

Whatever a program said goes through `wording.safe` first, so no control or invisible character gets into a document.
"""

from __future__ import annotations

from typing import TypeAlias
from xml.etree import ElementTree

from .wording import safe

Element: TypeAlias = ElementTree.Element
Child: TypeAlias = "Element | str | None"


def element(tag: str, *children: Child, **attributes: str | float | None) -> Element:
    """An element with these children; `class_` is the attribute `class`, and `stroke_width` is `stroke-width`.

    Attributes and children that are `None` are left out. Numbers are written with at most one decimal.
    """
    made = ElementTree.Element(tag)
    for name, value in attributes.items():
        if value is not None:
            made.set(name.rstrip("_").replace("_", "-"), safe(value, "\n") if isinstance(value, str) else number(value))
    add(made, *children)
    return made


def add(parent: Element, *children: Child) -> None:
    """Put children into an element, after those that are there."""
    for child in children:
        if isinstance(child, str):
            _add_text(parent, safe(child, "\n\t"))
        elif child is not None:
            parent.append(child)


def _add_text(parent: Element, text: str) -> None:
    if len(parent):
        parent[-1].tail = (parent[-1].tail or "") + text
    else:
        parent.text = (parent.text or "") + text


def number(value: float) -> str:
    """`12`, `12.5`."""
    return f"{value:.1f}".removesuffix(".0")


def as_svg(root: Element) -> str:
    """A document of its own, of an `svg` element."""
    root.set("xmlns", "http://www.w3.org/2000/svg")
    ElementTree.indent(root, " ")
    return ElementTree.tostring(root, "unicode", "xml") + "\n"


def as_html(root: Element) -> str:
    """A document of its own, of an `html` element."""
    return "<!DOCTYPE html>\n" + ElementTree.tostring(root, "unicode", "html") + "\n"
