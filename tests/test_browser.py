"""The checks of pages find what they are for."""

import functools
import http.server
import threading

import pytest
from browser import broken_images, faint_texts, open_details, opened, wide_parts

GOOD = """<!doctype html><meta name=viewport content="width=device-width"><meta name=color-scheme content="light dark">
<style>
:root{--ground:#fff;--text:#222}
@media(prefers-color-scheme:dark){:root{--ground:#111;--text:#ddd}}
body{background:var(--ground);color:var(--text)}
</style>
<h1>Title</h1><details><summary>More</summary><p>Hidden at first</p></details>
<svg viewBox="0 0 100 40" style="width:100%"><rect width="100" height="40" style="fill:#123"/>
<text x="50" y="20" style="fill:#fff;font-size:8px" text-anchor="middle">white on blue</text></svg>
<img alt=dot src="data:image/gif;base64,R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7">
"""
CHECKS = (wide_parts, broken_images, open_details, faint_texts)


@pytest.fixture
def look(chromium, tmp_path):
    """Opens a page of this HTML and returns all that is wrong with it."""

    def problems(html, **window):
        (tmp_path / "page.html").write_text(html)
        with opened(chromium, (tmp_path / "page.html").as_uri(), **window) as visit:
            found = [line for check in CHECKS for line in check(visit.page)]
            return found + visit.problems

    return problems


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [1280, 390])
def test_a_page_in_order_has_no_problem(look, width, dark):
    assert look(GOOD, width=width, dark=dark) == []


@pytest.mark.parametrize(
    ("defect", "problem"),
    [
        ("<script>missing()</script>", "exception: missing is not defined"),
        ("<script>console.error('oh')</script>", "console: oh"),
        ("<script>fetch('https://example.org/x').catch(() => 0)</script>", "request to https://example.org/x"),
        ("<link rel=stylesheet href=other.css>", "other.css"),
        ("<p style='width:2000px'>wide</p>", "the page scrolls sideways"),
        ("<div style='overflow-x:auto'><p style='width:2000px;color:#888'>wide</p></div>", "p 'wide': contrast 3.54"),
        ("<img alt=cat src='data:image/png;base64,AAAA'>", "cat: data:image/png"),
        (
            "<img alt=cat loading=lazy src='data:image/png;base64,AAAA' style='margin-top:9000px'>",
            "cat: data:image/png",
        ),
        ("<details><summary>Empty</summary></details>", "Empty: is empty"),
        ("<details><summary>None</summary><p hidden>x</p></details>", "None: is empty"),
        ("<details onclick='event.preventDefault()'><summary>No</summary><p>x</p></details>", "No: does not open"),
        ("<details><summary>Faint</summary><p style='color:#999'>x</p></details>", "p 'x': contrast 2.85"),
        ("<p style='color:#ddd'>x</p>", "p 'x': contrast 1.36"),
        ("<p style='opacity:.5'>half</p>", "p 'half': contrast 3.17"),
        ("<div style='background:#222'><span style='background:#fff0'>on dark</span></div>", "on dark': contrast 1.00"),
        ("<p style='background:linear-gradient(#fff,#eee)'>x</p>", "on a picture"),
        ("<svg><text y=20 style='fill:#999'>grey</text></svg>", "text 'grey': contrast 2.85"),
        ("<svg><path d='M0 0H90V40H0z'/><text y=20>black</text></svg>", "text 'black': contrast 1.00"),
        ("<svg><path d='M0 0H90V40H0z' fill-opacity=.6 /><text y=20>dim</text></svg>", "text 'dim': contrast 3.66"),
    ],
)
def test_a_defect_is_found(look, defect, problem):
    found = look(GOOD.replace("<h1>", defect + "<h1>"))
    assert len([line for line in found if problem in line]) == 1, found


def test_a_defect_of_dark_pages_alone_is_found(look):
    html = GOOD.replace("<h1>", "<p style='color:#555'>x</p><h1>")
    assert look(html) == []
    assert look(html, dark=True) == ["p 'x': contrast 2.53"]


def test_a_served_page_is_driven_by_keys_and_touch(chromium, tmp_path):
    (tmp_path / "page.html").write_text(
        "<link rel=icon href=data:,><script src=own.js></script>"
        "<button onclick='pressed.push(event.pointerType)'>press</button>"
    )
    (tmp_path / "own.js").write_text("let pressed = []; addEventListener('keydown', e => pressed.push(e.key))")
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=tmp_path)
    handler.log_message = lambda *_: None
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with opened(chromium, f"http://127.0.0.1:{server.server_port}/page.html", width=390, touch=True) as visit:
            visit.page.keyboard.press("ArrowRight")
            visit.page.tap("button")
            assert visit.page.evaluate("pressed") == ["ArrowRight", "touch"]
        server.shutdown()
    assert visit.problems == []
