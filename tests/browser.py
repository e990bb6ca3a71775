"""Pages in a real headless Chromium, and what every page must satisfy.

The browser is the system's; it is never downloaded. `opened` drives a page (click, type, tap); the functions below it
look for defects and return a line about each, so that an empty list is a pass.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")
LEAST_CONTRAST = 4.5  # of text against its background; source: WCAG 2.2, success criterion 1.4.3


@contextmanager
def started() -> Iterator:
    """A running browser. Skips the test where none is installed."""
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        pytest.skip(f"no browser here: install one of {', '.join(NAMES)}")
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with sync_api.sync_playwright() as playwright:
        # without the sandbox, which root may not use: only our own pages are opened
        browser = playwright.chromium.launch(executable_path=path, chromium_sandbox=False)
        yield browser
        browser.close()


@dataclass
class Visit:
    """An opened page.

    Attributes:
        page: playwright's page, to click, type, tap and evaluate.
        problems: errors and warnings of the console, exceptions, and requests to anything but the page's own place.
    """

    page: object
    problems: list[str]


@contextmanager
def opened(browser, url: str, width: int = 1280, dark: bool = False, touch: bool = False) -> Iterator[Visit]:
    """Open a page in a window of its own, 900 pixels high.

    Args:
        browser: what `started` yields.
        url: of a file, or of a server; a server's page may request more from this server.
        width: of the window in CSS pixels.
        dark: whether the user prefers dark pages.
        touch: whether it is a touch screen, for `page.tap`.
    """
    size = {"width": width, "height": 900}
    style = "dark" if dark else "light"
    place = urlsplit(url)
    problems: list[str] = []

    def check_request(request) -> None:
        target = urlsplit(request.url)
        own = target.scheme in ("data", "blob") or target[:2] == place[:2]
        if not own or (place.scheme == "file" and target.scheme == "file" and target.path != place.path):
            problems.append(f"request to {request.url}")

    def check_message(message) -> None:
        if message.type in ("error", "warning"):
            problems.append(f"console: {message.text}")

    with browser.new_context(viewport=size, color_scheme=style, has_touch=touch, reduced_motion="reduce") as context:
        context.set_default_timeout(10_000)
        page = context.new_page()
        page.on("request", check_request)
        page.on("console", check_message)
        page.on("pageerror", lambda error: problems.append(f"exception: {error}"))
        page.goto(url)
        yield Visit(page, problems)


def defects(visit: Visit) -> list[str]:
    """All that is wrong with an opened page, whose details are opened on the way."""
    checks = (open_details, wide_parts, broken_images, faint_texts)
    return [line for check in checks for line in check(visit.page)] + visit.problems


def wide_parts(page) -> list[str]:
    """Whether the page as a whole can be scrolled sideways, with the elements that stick out of the window."""
    return page.evaluate(
        """() => {
            const width = document.documentElement.clientWidth
            if (document.documentElement.scrollWidth <= width) return []
            const parts = [...document.body.querySelectorAll('*')]
            const out = parts.filter(e => e.getBoundingClientRect().right > width + 1)
            const name = e => `${e.tagName.toLowerCase()}.${e.getAttribute('class') ?? ''} ends at `
            return ['the page scrolls sideways', ...out.map(e => name(e) + e.getBoundingClientRect().right)]
        }"""
    )


def broken_images(page) -> list[str]:
    """Images that cannot be decoded."""
    return page.evaluate(
        """async () => {
            const broken = []
            for (const image of document.querySelectorAll('img')) {
                image.loading = 'eager'
                await image.decode().catch(() => {})
                if (!image.naturalWidth) broken.push(`${image.alt}: ${image.src.slice(0, 60)}`)
            }
            return broken
        }"""
    )


def open_details(page) -> list[str]:
    """Click every `<details>` open, as a person would; those that stay closed or show nothing."""
    stuck = []
    while closed := page.query_selector("details:not([open])"):
        summary = closed.query_selector("summary")
        name = summary.inner_text()
        summary.click()
        height = "e => [...e.children].slice(1).reduce((sum, c) => sum + c.getBoundingClientRect().height, 0)"
        if not closed.evaluate("e => e.open"):
            stuck.append(f"{name}: does not open")
            closed.evaluate("e => e.open = true")
        if not closed.evaluate(height):
            stuck.append(f"{name}: is empty")
    return stuck


def faint_texts(page, least: float = LEAST_CONTRAST) -> list[str]:
    """Visible texts, those of pictures too, whose contrast with what lies behind them is too low."""
    return page.evaluate(CONTRAST, least)


# What lies behind a text is found where it is painted: the stack of elements at its middle, from the top down, blended
# until nothing shines through. A background image or gradient counts as a defect, since it cannot be judged.
CONTRAST = """least => {
    const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true})
    const known = new Map()
    function rgba(color) {
        if (!known.has(color)) {
            canvas.clearRect(0, 0, 1, 1)
            canvas.fillStyle = color
            canvas.fillRect(0, 0, 1, 1)
            const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data
            known.set(color, [r, g, b, a / 255])
        }
        return known.get(color)
    }
    const over = (top, below) => {
        const a = top[3] + below[3] * (1 - top[3])
        const mix = i => a ? (top[i] * top[3] + below[i] * below[3] * (1 - top[3])) / a : 0
        return [mix(0), mix(1), mix(2), a]
    }
    const inked = (color, opacity) => { const [r, g, b, a] = rgba(color); return [r, g, b, a * opacity] }
    function opacity(e) {
        let product = 1
        for (; e; e = e.parentElement) product *= getComputedStyle(e).opacity
        return product
    }
    function paint(e) {
        const style = getComputedStyle(e)
        if (!(e instanceof SVGElement) || e instanceof SVGSVGElement) return inked(style.backgroundColor, opacity(e))
        if (style.fill === 'none' || e instanceof SVGTextContentElement) return [0, 0, 0, 0]
        return inked(style.fill, style.fillOpacity * opacity(e))
    }
    const luminance = color => [0.2126, 0.7152, 0.0722].reduce((sum, weight, i) => {
        const v = color[i] / 255
        return sum + weight * (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    }, 0)
    const found = []
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT)
    const range = document.createRange()
    for (let node = walker.nextNode(); node; node = walker.nextNode()) {
        const e = node.parentElement
        if (!node.data.trim() || !e.checkVisibility({visibilityProperty: true})) continue
        range.selectNodeContents(node)
        if (!range.getClientRects().length) continue
        e.scrollIntoView({block: 'center', inline: 'nearest', behavior: 'instant'})
        const box = [...range.getClientRects()].sort((a, b) => b.width * b.height - a.width * a.height)[0]
        const stack = document.elementsFromPoint(box.x + box.width / 2, box.y + box.height / 2)
        const from = stack.findIndex(s => s === e || s.contains(e))
        let behind = [0, 0, 0, 0], picture = ''
        for (const below of from < 0 ? [] : stack.slice(from)) {
            behind = over(behind, paint(below))
            if (behind[3] < 0.999 && getComputedStyle(below).backgroundImage !== 'none') picture = ' on a picture'
        }
        behind = over(behind, rgba(getComputedStyle(document.documentElement).colorScheme.includes('dark') &&
            matchMedia('(prefers-color-scheme: dark)').matches ? '#121212' : '#fff'))
        const style = getComputedStyle(e)
        const ink = e instanceof SVGElement
            ? inked(style.fill, style.fillOpacity * opacity(e)) : inked(style.color, opacity(e))
        const [a, b] = [luminance(over(ink, behind)), luminance(behind)].sort((x, y) => y - x)
        const contrast = (a + 0.05) / (b + 0.05)
        const name = `${e.tagName.toLowerCase()} '${node.data.trim().slice(0, 40)}'`
        if (from < 0) found.push(`${name}: hidden behind ${stack[0]?.tagName} or outside the window`)
        else if (contrast < least || picture) found.push(`${name}: contrast ${contrast.toFixed(2)}${picture}`)
    }
    return found
}"""
