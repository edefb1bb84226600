"""Pictures that lead to each other, as a page or a part of one, with nothing to fetch."""

from __future__ import annotations

import re
from collections.abc import Sequence
from string import Template

from .theme import PAPER

# A link "#view-3" shows the fourth picture in place of the one it stands in.
_SCRIPT = """\
(me => {
  const views = [...me.children].filter(v => v.className === "view");
  me.addEventListener("click", e => {
    const link = e.target.closest("a");
    if (!link || !me.contains(link)) return;
    e.preventDefault();
    const next = +link.getAttribute("xlink:href").slice("#view-".length);
    views.forEach((v, k) => { v.hidden = k !== next; });
  });
})(document.currentScript.parentElement);"""
_FRAGMENT = Template("""\
<div class="autograd-geo-graph">
<style>.autograd-geo-graph  .view{overflow-x:auto}
.autograd-geo-graph a{cursor:pointer;text-decoration:none}
.autograd-geo-graph a:hover,.autograd-geo-graph a:focus-visible{opacity:.75}</style>
$views
<script>$script</script>
</div>""")
_DOCUMENT = Template("""\
<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>Computation graph</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>:root{color-scheme:$scheme;background:$light}
body{margin:2rem;text-align:center}$dark</style></head>
<body>
$fragment
</body></html>
""")


def fragment(views: Sequence[str]) -> str:
    """SVG elements, of which one is shown at a time, as an HTML element."""
    shown = [
        f'<div class="view"{" hidden" if k else ""}>{re.sub(_ID, "", view) if k else view}</div>'
        for k, view in enumerate(views)
    ]
    return _FRAGMENT.substitute(views="\n".join(shown), script=_SCRIPT)


_ID = re.compile(r' id="[^"]*"')  # each may stand once in a page


def document(views: Sequence[str], theme: str) -> str:
    """The same as a page."""
    dark = f"@media(prefers-color-scheme:dark){{:root{{background:{PAPER['dark']}}}}}" if theme == "auto" else ""
    scheme = "light dark" if theme == "auto" else theme
    return _DOCUMENT.substitute(fragment=fragment(views), scheme=scheme, light=PAPER[theme], dark=dark)
