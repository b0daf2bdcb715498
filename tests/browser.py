"""Pages in a real browser: where it is, and how text and lines contrast with what is behind them."""

import os
import shutil

import pytest

CHROMIUM = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, ("chromium", "google-chrome"))), None)
try:
    import playwright  # noqa: F401
except ImportError:  # the tests can do without it
    CHROMIUM = None

MARKS = [
    pytest.mark.browser,
    pytest.mark.skipif(
        CHROMIUM is None,
        reason="there is no browser: needs playwright, and chromium on the PATH or named by $CHROMIUM",
    ),
]


def watched(context, told: list[str], asked: list[str]):
    """A new tab; what its page complains of is added to ``told``, and what it fetches to ``asked``."""
    tab = context.new_page()
    tab.set_default_timeout(120_000)  # machines that run tests are busy
    tab.on("console", lambda message: told.append(message.text))
    tab.on("pageerror", lambda error: told.append(str(error)))
    tab.on("dialog", lambda dialog: (told.append(dialog.message), dialog.dismiss()))
    tab.on("request", lambda request: asked.append(request.url))
    return tab


# The least contrast of text by WCAG 2.2 at level AA, and of what charts are drawn with.
TEXT, DRAWN = 4.5, 3.0
# Of each element with text of its own: its colour, the colour behind it, and how they contrast.
CONTRASTS = """
() => {
  const parse = (colour) => (colour.match(/[\\d.]+/g) ?? []).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((c) => c / 255)
    .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (element) => {
    for (let e = element; e; e = e.parentElement) {
      const colour = parse(getComputedStyle(e).backgroundColor);
      if (colour.length === 3 || colour[3] === 1) return colour;
    }
    return [255, 255, 255];
  };
  const found = [];
  for (const element of document.querySelectorAll("body *")) {
    if (["SCRIPT", "STYLE", "OPTION"].includes(element.tagName) || !element.getClientRects().length) continue;
    const own = [...element.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
    const style = getComputedStyle(element), drawn = element instanceof SVGElement;
    const shape = ["line", "path"].includes(element.tagName) && element.getAttribute("stroke")?.includes("--series");
    if (!own && !shape) continue;
    const front = light(parse(shape ? style.stroke : drawn ? style.fill : style.color));
    const back = light(behind(element));
    const [dark, bright] = [Math.min(front, back), Math.max(front, back)];
    found.push([shape ? "shape" : "text", (bright + 0.05) / (dark + 0.05), element.outerHTML.slice(0, 120)]);
  }
  return found;
}
"""
