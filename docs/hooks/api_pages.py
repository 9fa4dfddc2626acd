"""The API pages: what they ask for is there, and docstrings' references read as names."""

import logging
import re

_LOG = logging.getLogger("mkdocs.hooks.api_pages")
_MEMBERS = re.compile(r"members: \[(.*?)\]", re.DOTALL)
# transformers' docstrings write [`Name`] for a reference.
_REFERENCE = re.compile(r"\[(<code>[^<]*</code>)\]")


def on_page_content(html, page, config, files):
    """Warn of a name that a page asks for and mkdocstrings passes over, and take the brackets off references."""
    for members in _MEMBERS.findall(page.markdown):
        for name in re.findall(r"\w+", members):
            if not re.search(rf'id="[\w.]*\b{name}"', html):
                _LOG.warning("%s asks for %s, which has no documentation", page.file.src_uri, name)
    return _REFERENCE.sub(r"\1", html)
