"""Keys for paper: a QR code on the terminal, and a page to print.

A key of 520 bytes makes a code of 81 by 81 modules: with its margin 85 columns and 43 lines of a
terminal; one of 700 bytes 97 columns. Too wide for 80 columns from about 450 bytes on; a terminal
that is too narrow wraps the lines, and no camera reads that.

The page has the code beside the lines (99 and 74 mm of the 180 that A4 and Letter have between
margins), so that keys of up to 900 bytes stay on one sheet.
"""

import html
import io
from typing import TYPE_CHECKING

from snapstore.model import paper

if TYPE_CHECKING:
    import segno

_MARGIN = 2
"""Modules of light around the code on a terminal; the four of the standard are for paper."""
_HALVES = {(0, 0): " ", (1, 0): "▀", (0, 1): "▄", (1, 1): "█"}
_ON, _OFF = "\x1b[38;5;16;48;5;231m", "\x1b[0m"

_PAGE = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>Key {name} of the store {short}</title>
<style>
@page {{ size: auto; margin: 15mm; }}
body {{ font: 11pt/1.35 sans-serif; color: #000; background: #fff; }}
body {{ max-width: 180mm; margin: auto; }}
h1 {{ font-size: 15pt; margin: 0 0 3mm; }}
p, dl {{ margin: 0 0 3mm; }}
dl {{ display: grid; grid-template-columns: max-content auto; column-gap: 4mm; }}
dd {{ margin: 0; overflow-wrap: anywhere; }}
pre, code, dd {{ font-family: monospace; }}
div {{ display: flex; flex-wrap: wrap; gap: 4mm; align-items: flex-start; }}
pre {{ font-size: 9.5pt; line-height: 1.2; margin: 0; }}
svg {{ width: 74mm; height: 74mm; }}
</style>
</head>
<body>
<h1>A key of a snapshot store (snapstore)</h1>
<dl>
<dt>Store</dt><dd>{store}</dd>
<dt>Key</dt><dd>{name}</dd>
</dl>
<p>With the key's password, which is not on this page, it opens the store, even if the store has
lost it. Keep it away from the store. To bring it back, type the lines into a file, or save what the
code says as one, and: <code>snap key import FILE -s STORE</code></p>
<p>Spaces and the case of letters do not matter. There is no letter I, L, O or U.</p>
<div>
<pre>
{lines}
</pre>
{code}
</div>
</body>
</html>
"""


def as_terminal_qr(content: str) -> str:
    """The code in half blocks, black on white whatever the terminal's colours are; its lines are as
    wide as it has modules, and 4.
    """
    rows = [list(row) for row in _code(content, "l").matrix_iter(border=_MARGIN)]
    if len(rows) % 2:
        rows.append([0] * len(rows[0]))
    lines = (
        "".join(_HALVES[upper, lower] for upper, lower in zip(*pair, strict=True))
        for pair in zip(rows[::2], rows[1::2], strict=True)
    )
    return "\n".join(f"{_ON}{line}{_OFF}" for line in lines)


def as_html(key: bytes, store: str, name: str) -> str:
    """A page to print, A4 or Letter, that needs nothing else: the lines and the code. As UTF-8."""
    drawing = io.BytesIO()
    _code(paper.qr_text(key), "m").save(
        drawing, kind="svg", xmldecl=False, svgclass=None, lineclass=None, omitsize=True, nl=False
    )
    return _PAGE.format(
        store=html.escape(store),
        short=html.escape(store[:8]),
        name=html.escape("".join(one if one.isprintable() else "?" for one in name)),
        lines="\n".join(paper.lines(key)),
        code=drawing.getvalue().decode(),
    )


def _code(content: str, error: str) -> "segno.QRCode":
    import segno

    return segno.make(content, mode="alphanumeric", error=error, micro=False, boost_error=False)
