"""Light and dark: every colour of a drawing has a dark one, worked out from it."""

from __future__ import annotations

import colorsys
import re
from functools import lru_cache

THEMES = ("auto", "light", "dark")
#: What a picture without transparency stands on.
PAPER = {"auto": "#ffffff", "light": "#ffffff", "dark": "#0d1117"}
_QUOTED = re.compile(r'"(#[0-9a-f]{6})"')
_ATTRIBUTE = re.compile(r'\b(fill|stroke)="(#[0-9a-f]{6})"')
# Notebooks say on an element further out which theme they have, whatever the system prefers.
_LIGHT_PAGE = ':is([data-jp-theme-light="true"], .vscode-light)'
_DARK_PAGE = ':is([data-jp-theme-light="false"], .vscode-dark)'


@lru_cache(maxsize=256)
def dark(color: str) -> str:
    """The same hue where light is dark: `#ffffff` becomes nearly black, ink nearly white."""
    hue, light, saturation = colorsys.rgb_to_hls(*(int(color[k : k + 2], 16) / 255 for k in (1, 3, 5)))
    rgb = colorsys.hls_to_rgb(hue, 0.97 - 0.82 * light, saturation * 0.6)
    return "#" + "".join(f"{round(255 * c):02x}" for c in rgb)


def darkened(source: str) -> str:
    """DOT or SVG with its colours, which stand between quotes, made dark."""
    return _QUOTED.sub(lambda m: f'"{dark(m[1])}"', source)


def adaptive(svg: str) -> str:
    """An SVG element that follows the page, the notebook or the system from light to dark and back.

    A page may hold several: their rules agree, and the class keeps them from what has a theme of its own.
    """
    pairs = sorted(set(_ATTRIBUTE.findall(svg)))

    def rules(scope: str) -> str:
        return "".join(f'{scope} [{a}="{c}"]{{{a}:{dark(c)}}}' for a, c in pairs)

    style = (
        "svg:root{color-scheme:light dark}"
        + rules(f"{_DARK_PAGE} .autograd-geo")
        + "@media(prefers-color-scheme:dark){"
        + rules(f".autograd-geo:not({_LIGHT_PAGE} *)")
        + "}"
    )
    start, end = svg.index("<svg") + 4, svg.index(">") + 1
    return f'{svg[:start]} class="autograd-geo"{svg[start:end]}<style>{style}</style>{svg[end:]}'


def checked(theme: str) -> str:
    """The theme itself. Raises ValueError for one that does not exist."""
    if theme not in THEMES:
        raise ValueError(f"theme may be 'auto', 'light' or 'dark', not {theme!r}")
    return theme
