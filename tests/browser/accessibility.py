"""What a page must keep to so that everybody can use it, looked for in the page itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from playwright.sync_api import Page, ViewportSize

MIN_CONTRAST = 4.5  # WCAG 2.2 AA for text
MIN_TARGET_PX = 24
DESKTOP: ViewportSize = {"width": 1280, "height": 800}
PHONE: ViewportSize = {"width": 375, "height": 780}
SCHEMES: tuple[Literal["light", "dark"], ...] = ("light", "dark")

_LOOK = """
([minContrast, minTarget]) => {
  const found = [];
  const name = (element) => element.outerHTML.slice(0, 110).replace(/\\s+/g, " ");
  const isShown = (element) => element.checkVisibility({ visibilityProperty: true, opacityProperty: false });
  const parse = (text) => {
    const parts = text.match(/[\\d.]+/g).map(Number);
    const isUnit = text.startsWith("color(");
    const [r, g, b] = parts.slice(0, 3).map((value) => (isUnit ? value * 255 : value));
    return [r, g, b, parts.length > 3 ? parts[3] : 1];
  };
  const luminance = ([r, g, b]) => {
    const [x, y, z] = [r, g, b].map((value) => {
      const part = value / 255;
      return part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * x + 0.7152 * y + 0.0722 * z;
  };
  const behind = (element) => {
    const layers = [];
    for (let at = element; at; at = at.parentElement) {
      const color = parse(getComputedStyle(at).backgroundColor);
      layers.push(color);
      if (color[3] === 1) break;
    }
    return layers.reverse().reduce(
      (under, over) => [0, 1, 2].map((i) => over[i] * over[3] + under[i] * (1 - over[3])), [255, 255, 255]);
  };
  const contrast = (one, other) => {
    const [high, low] = [luminance(one), luminance(other)].sort((a, b) => b - a);
    return (high + 0.05) / (low + 0.05);
  };

  for (const [what, n] of [["h1", 1], ["main", 1], ["header", 1], ["nav", 1], ["footer", 1]]) {
    const there = [...document.querySelectorAll(what)].filter((item) => item.checkVisibility() || what === "h1");
    if (there.length !== n) found.push(`${there.length} <${what}>, expected ${n}`);
  }
  if (!document.documentElement.lang) found.push("no language");
  if (!document.title.trim()) found.push("no title");
  const levels = [...document.querySelectorAll("main h1, main h2, main h3, main h4")].filter(isShown).map((h) => Number(h.tagName[1]));
  levels.reduce((before, level) => {
    if (level > before + 1) found.push(`a heading of level ${level} follows level ${before}`);
    return level;
  }, 0);
  const ids = [...document.querySelectorAll("[id]")].map((item) => item.id);
  for (const id of new Set(ids)) if (ids.filter((item) => item === id).length > 1) found.push(`id ${id} is there twice`);
  for (const element of document.querySelectorAll("[aria-labelledby], [aria-describedby]"))
    for (const kind of ["aria-labelledby", "aria-describedby"])
      for (const id of (element.getAttribute(kind) ?? "").split(" ").filter(Boolean))
        if (!document.getElementById(id) && element.tagName !== "DIALOG") found.push(`${kind} leads nowhere: ${name(element)}`);
  for (const element of document.querySelectorAll("[style]")) found.push(`style in the page: ${name(element)}`);
  for (const image of document.querySelectorAll("img:not([alt]), svg:not([role]):not([aria-hidden])")) found.push(`no words for ${name(image)}`);
  for (const field of document.querySelectorAll("input:not([type=hidden]), select, textarea"))
    if (!field.labels?.length && !field.ariaLabel) found.push(`no label: ${name(field)}`);
  for (const control of document.querySelectorAll("a, button, summary")) {
    const words = control.ariaLabel || control.textContent.trim() || control.querySelector("img[alt]")?.alt;
    if (!words) found.push(`says nothing: ${name(control)}`);
    if (control.tabIndex > 0) found.push(`jumps the queue: ${name(control)}`);
  }
  for (const control of document.querySelectorAll("button, .button, select, nav a, input:not([type=hidden])")) {
    const { width, height } = control.getBoundingClientRect();
    if (!isShown(control) || control.closest(".unseen") || control.matches("input[type=checkbox], input[type=radio]")) continue;
    if (Math.min(width, height) < minTarget) found.push(`too small to hit (${Math.round(width)} x ${Math.round(height)}): ${name(control)}`);
  }
  for (const table of document.querySelectorAll("table"))
    if (!table.querySelector("th[scope=col]") && !table.querySelector("th[scope=row]")) found.push(`a table without headings: ${name(table)}`);
  for (const scroll of document.querySelectorAll(".scroll")) if (scroll.tabIndex !== 0) found.push(`not to be scrolled by keys: ${name(scroll)}`);
  const wide = document.documentElement.scrollWidth - innerWidth;
  if (wide > 0) found.push(`${wide} px wider than the window`);

  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const seen = new Set();
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (seen.has(element) || !walker.currentNode.data.trim() || !isShown(element) || element.closest(".unseen, script, noscript, option")) continue;
    seen.add(element);
    const style = getComputedStyle(element);
    const ink = parse(element instanceof SVGElement ? style.fill : style.color);
    const ratio = contrast(ink, behind(element));
    if (ratio < minContrast) found.push(`contrast ${ratio.toFixed(2)}: ${name(element)}`);
  }
  for (const field of document.querySelectorAll("input[placeholder], textarea[placeholder]")) {
    const ratio = contrast(parse(getComputedStyle(field, "::placeholder").color), behind(field));
    if (ratio < minContrast) found.push(`contrast ${ratio.toFixed(2)} of the placeholder: ${name(field)}`);
  }
  for (const field of document.querySelectorAll("main input:not([type=hidden], [type=radio], [type=checkbox], .unseen), main select")) {
    const ratio = contrast(parse(getComputedStyle(field).borderTopColor), behind(field.parentElement));
    if (isShown(field) && ratio < 3) found.push(`contrast ${ratio.toFixed(2)} of the border: ${name(field)}`);
  }
  return found;
}
"""  # noqa: E501


def faults(page: Page) -> list[str]:
    """What is wrong with the page as it is shown now; [] when nothing is."""
    found: list[str] = page.evaluate(_LOOK, [MIN_CONTRAST, MIN_TARGET_PX])
    return found


def faults_in_every_look(page: Page, name: str) -> dict[str, list[str]]:
    """The same in light and dark, on a desktop and on a phone; {} when nothing is wrong. name: of
    the page as it is shown."""
    found = {}
    for scheme in SCHEMES:
        page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
        for size in (PHONE, DESKTOP):
            page.set_viewport_size(size)
            found[f"{name}, {scheme}, {size['width']} px"] = faults(page)
    return {look: wrong for look, wrong in found.items() if wrong}


def tab_stops(page: Page, n: int) -> list[str]:
    """What the first n presses of the tab key lead to, by their words or names."""
    stops = []
    for _ in range(n):
        page.keyboard.press("Tab")
        stops.append(
            page.evaluate(
                "() => { const at = document.activeElement;"
                "return at.ariaLabel || at.name || at.textContent.trim(); }"
            )
        )
    return stops
