"""Hook of the documentation site: cross-references of docstrings are shown as plain code.

Docstrings write ``:func:`name``` for readers in an editor. The site is made from Markdown, which
does not know such roles and would print their names.
"""

from __future__ import annotations

import re
from typing import Any

ROLE = re.compile(r":(?:func|class|meth|mod|data|attr|exc|const):(?=<code)")
DOUBLE = re.compile(r"(<code>)(?:[^<>]* &lt;~?|~)([\w.]+)(?:&gt;)?(</code>)")


def on_page_content(html: str, **_: Any) -> str:
    """Called by MkDocs for the HTML of every page."""
    return DOUBLE.sub(r"\1\2\3", ROLE.sub("", html))
