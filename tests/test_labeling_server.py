"""The page's server: what it answers, and what it refuses."""

import asyncio
import io
import itertools
import json
import os
from functools import partial

import numpy as np
import pytest
from asgi import request
from labeling_projects import CLASSES, Desk, truth
from PIL import Image

import labeling.bodies
from labeling.log import read_log
from labeling.pictures import CACHE_BYTES, LARGE, SMALL, Pictures, make_picture
from labeling.security import HEADERS, MAX_BODY
from labeling.server import Endpoints, application, page_files
from utils import UserError

pytestmark = pytest.mark.usefixtures("no_fsync")
TOKEN = "right-token"
HOST = "127.0.0.1:8000"
OWN = {"host": HOST, "authorization": f"Bearer {TOKEN}"}
POST = {**OWN, "origin": f"http://{HOST}", "content-type": "application/json"}
PUBLIC = ("/", "/label.css", "/label.js", "/label.svg")
PRIVATE = (
    ("GET", "/api/project"),
    ("GET", "/api/items?annotator=Ada&n=1"),
    ("GET", "/api/grid?annotator=Ada&n=1"),
    ("GET", "/api/progress?annotator=Ada"),
    ("GET", "/api/images/0"),
    ("GET", "/api/thumbnails/0"),
    ("POST", "/api/answers"),
    ("POST", "/api/undo"),
    ("GET", "/nothing"),
)


class Served:
    """A project and its server, without a socket."""

    def __init__(self, tmp_path, annotator=None, **given):
        self.desk = Desk(tmp_path, **given)
        self.desk.ready()
        self.endpoints = Endpoints(self.desk.session, annotator)
        self.app = application(self.endpoints, TOKEN)

    def get(self, target, **headers):
        return request(self.app, "GET", target, {**OWN, **headers})

    def post(self, path, content, **headers):
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        return request(self.app, "POST", path, {**POST, **headers}, [body])

    def items(self, annotator="Ada", n=1):
        return self.get(f"/api/items?annotator={annotator}&n={n}").json()["items"]

    def answer(self, item, label=0, annotator="Ada", **changes):
        value = {"key": item["key"], "action": "label", "label": label, "seconds": 1.5, **changes}
        return self.post("/api/answers", {"annotator": annotator, "answers": [value]})

    @property
    def log(self):
        return read_log(self.desk.project.folder / "labels.csv")


@pytest.fixture
def served(tmp_path):
    made = Served(tmp_path)
    yield made
    made.endpoints.pictures.close()
    made.desk.close()


# Answers


def test_an_answer_and_its_undo_are_rows_of_the_log(served):
    item = served.items()[0]
    assert served.answer(item, 2).json() == {"recorded": 1}
    assert [(d.annotator, d.path, d.action, d.label, d.seconds) for d in served.log] == [
        ("Ada", item["path"], "label", "heron", "1.50")
    ]
    again = served.post("/api/undo", {"annotator": "Ada"}).json()["item"]
    assert (again["key"], again["label"]) == (item["key"], 2)
    assert [d.action for d in served.log] == ["label", "undo"]
    assert served.post("/api/undo", {"annotator": "Ada"}).json() == {"item": None}


def test_an_answer_that_is_sent_twice_is_recorded_once(served):
    item = served.items()[0]
    assert [served.answer(item).status for _ in range(3)] == [200, 200, 200]
    assert len(served.log) == 1


def test_an_answer_is_on_the_disk_before_it_is_acknowledged(served, monkeypatch):
    events = []
    monkeypatch.setattr(os, "fsync", lambda _: events.append(("on the disk", len(served.log))))
    value = {"key": served.items()[0]["key"], "action": "skip", "label": None, "seconds": 0}
    body = json.dumps({"annotator": "Ada", "answers": [value]}).encode()
    request(served.app, "POST", "/api/answers", POST, [body], lambda: events.append("acknowledged"))
    assert events == [("on the disk", 1), "acknowledged"]


def test_two_annotators_never_get_the_same_image(served):
    seen = []
    for _ in range(5):
        for name in ("Ada", "Bob"):
            items = served.items(name, 3)
            seen += [(name, item["index"]) for item in items]
            served.answer(items[0], 0, name)
    ada, bob = ({i for name, i in seen if name == who} for who in ("Ada", "Bob"))
    assert len(ada) == len(bob) == 7
    assert not ada & bob


def test_answers_of_an_earlier_start_reach_their_images_though_files_were_added(served, tmp_path):
    item = served.items()[0]
    served.desk.close()
    Image.new("RGB", (8, 8)).save(served.desk.root / "unlabeled" / "000-a.png")
    later = Served(tmp_path)
    assert later.answer(item, 1).status == 200
    assert [d.path for d in later.log] == [item["path"]]
    assert later.endpoints.keys[item["key"]] == item["index"] + 1
    later.desk.close()


def test_a_grid_has_one_suggestion(served):
    assert served.get("/api/grid?annotator=Ada&n=12").json() == {"label": None, "items": []}
    served.desk.answer_task()
    while not served.desk.tasks:
        item = served.items()[0]
        served.answer(item, truth(item["path"]))
    served.desk.answer_task()
    grid = served.get("/api/grid?annotator=Ada&n=12").json()
    assert grid["label"] == 1
    assert [item["suggestion"] for item in grid["items"]] == [1] * 12
    assert served.get("/api/grid?annotator=Ada&n=12&label=0").json()["items"] == []


def test_progress_is_json(served):
    served.answer(served.items()[0])
    found = served.get("/api/progress?annotator=Ada").json()
    assert (found["n_labeled"], found["n_mine"], found["work"]["state"]) == (1, 1, "training")


def test_the_page_knows_the_project_and_the_annotator(tmp_path):
    made = Served(tmp_path, annotator="Ada")
    expected = {"name": "birds", "classes": [*CLASSES], "blind": False, "annotator": "Ada"}
    assert made.get("/api/project").json() == expected
    made.desk.close()


# Strangers


@pytest.mark.parametrize(("method", "target"), PRIVATE)
@pytest.mark.parametrize("given", [None, "", "Bearer", "Bearer ", "Bearer right-toke", "Bearer right-token2", TOKEN])
def test_nothing_of_a_project_is_told_without_its_token(served, method, target, given):
    headers = {k: v for k, v in POST.items() if k != "authorization"} | ({"authorization": given} if given else {})
    if method == "GET":
        headers = {"host": HOST} | ({"authorization": given} if given else {})
    reply = request(served.app, method, target, headers)
    assert (reply.status, [*reply.json()]) == (403, ["error"])
    assert served.log == []


def test_tokens_are_compared_in_constant_time(served, monkeypatch):
    compared = []
    monkeypatch.setattr("labeling.security.secrets.compare_digest", lambda a, b: compared.append((a, b)) or True)
    assert request(served.app, "GET", "/api/project", {**OWN, "authorization": "Bearer x"}).status == 200
    assert compared == [(b"x", TOKEN.encode())]


def test_every_path_needs_the_token_except_the_empty_page():
    assert {*page_files()} == {*PUBLIC}


@pytest.mark.parametrize("target", PUBLIC)
def test_the_empty_page_says_nothing_of_any_project(served, target):
    reply = request(served.app, "GET", target, {"host": HOST})
    assert reply.status == 200
    assert not any(word in reply.content.decode() for word in ("birds", "unlabeled/", *CLASSES))


@pytest.mark.parametrize(
    "host",
    [
        "",
        "evil.example",
        "127.0.0.1.evil.example",
        "evil.example@127.0.0.1",
        "127.0.0.1:80:80",
        "127.0.0.1:",
        "[::1]",
        "127.0.0.1\t",
        "localhost.",
        "127.0.0.2:8000",
        "0.0.0.0:8000",
        "LOCALHOST.evil",
    ],
)
def test_another_host_is_refused(served, host):
    for target in ("/", "/api/project"):
        assert request(served.app, "GET", target, {**OWN, "host": host}).status == 400
    assert request(served.app, "GET", "/", {}).status == 400


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "localhost:9000", "127.0.0.1:1"])
def test_tunnels_may_end_at_another_port(served, host):
    assert request(served.app, "GET", "/api/project", {**OWN, "host": host}).status == 200
    body = [b'{"annotator":"Ada"}']
    assert (
        request(served.app, "POST", "/api/undo", {**POST, "host": host, "origin": f"http://{host}"}, body).status == 200
    )


@pytest.mark.parametrize(
    "origin",
    [
        None,
        "null",
        "",
        "http://evil.example",
        "http://127.0.0.1:8001",
        "https://127.0.0.1:8000",
        "http://127.0.0.1",
        "http://localhost:8000",
        "http://127.0.0.1:8000.evil.example",
        "file://",
    ],
)
@pytest.mark.parametrize("path", ["/api/answers", "/api/undo"])
def test_a_post_of_another_page_is_refused(served, path, origin):
    item = served.items()[0]
    served.answer(item)
    headers = {k: v for k, v in POST.items() if k != "origin"} | ({} if origin is None else {"origin": origin})
    reply = request(served.app, "POST", path, headers, [b'{"annotator":"Ada"}'])
    assert reply.status == 403
    assert len(served.log) == 1


@pytest.mark.parametrize("site", ["cross-site", "same-site", "none"])
def test_requests_that_browsers_mark_as_those_of_other_pages_are_refused(served, site):
    for _, target in PRIVATE[:6]:
        assert served.get(target, **{"sec-fetch-site": site}).status == 403
    assert served.post("/api/undo", {"annotator": "Ada"}, **{"sec-fetch-site": site}).status == 403
    assert served.get("/api/project", **{"sec-fetch-site": "same-origin"}).status == 200
    assert served.get("/api/project", origin="http://evil.example").status == 403


@pytest.mark.parametrize("method", ["OPTIONS", "PUT", "DELETE", "PATCH", "TRACE", "CONNECT"])
def test_other_methods_are_refused_and_no_page_is_let_in(served, method):
    ask = {"origin": "http://evil.example", "access-control-request-method": "POST"}
    reply = request(served.app, method, "/api/answers", {**OWN, **ask})
    assert reply.status == 405
    assert not [name for name in reply.headers if name.startswith("access-control")]


def test_all_replies_carry_the_headers_that_protect_the_page(served):
    item = served.items()[0]
    replies = [served.get(t) for t in (*PUBLIC, "/api/project", "/api/images/0", "/api/images/x", "/nothing")]
    replies += [
        served.answer(item),
        served.answer(item, 99),
        served.get("/api/undo"),
        served.post("/api/undo", b"x" * 70000),
    ]
    replies += [
        request(served.app, "GET", "/", {"host": "evil"}),
        request(served.app, "GET", "/api/project", {"host": HOST}),
    ]
    assert {r.status for r in replies} == {200, 400, 403, 404, 405, 413}
    for reply in replies:
        assert {k: reply.headers.get(k) for k in HEADERS} == HEADERS
        assert "set-cookie" not in reply.headers
    policy = HEADERS["content-security-policy"]
    assert "unsafe" not in policy
    assert "default-src 'none'" in policy
    assert "http" not in policy.replace("https:", "http:")


# What is sent


@pytest.mark.parametrize(
    "index",
    [
        "..%2F..%2Fetc%2Fpasswd",
        "../../etc/passwd",
        "%2e%2e",
        "-1",
        "+1",
        "1.0",
        "1e3",
        "0x1",
        " 1",
        "1%00",
        "%EF%BC%91",
        "40",
        "999999999",
        "9" * 5000,
        "null",
        "0/../1",
        "",
    ],
)
def test_images_have_numbers_and_no_paths(served, index):
    for place in ("images", "thumbnails"):
        reply = served.get(f"/api/{place}/{index}")
        assert reply.status in (400, 404)
        assert [*reply.json()] == ["error"]


@pytest.mark.parametrize(
    "target",
    [
        "/..%2flabel.py",
        "/../labeling/server.py",
        "/label.html",
        "/templates/label.js",
        "//etc/passwd",
        "/label.js/",
        "/%00",
    ],
)
def test_no_other_file_is_served(served, target):
    assert served.get(target).status == 404


@pytest.mark.parametrize("query", ["n=0", "n=101", "n=-1", "n=1e1", "n=", "", "n=..%2f", "n=%D9%A1", "n=" + "1" * 5000])
def test_a_number_out_of_bounds_is_refused(served, query):
    for place in ("items", "grid"):
        assert served.get(f"/api/{place}?annotator=Ada&{query}").status == 400


NAMES = [
    "",
    "x" * 61,
    " Ada",
    "Ada\n",
    "a\0b",
    "../x",
    "=HYPERLINK(1)",
    "+1",
    "-1",
    "@x",
    "<b>",
    "\u202eevil",
    "\udc80",
]


@pytest.mark.parametrize("name", [*NAMES, None, 7, True, ["Ada"], {}])
def test_a_strange_name_of_an_annotator_is_refused(served, name):
    assert served.post("/api/undo", {"annotator": name}).status == 400
    if isinstance(name, str):
        quoted = "".join(f"%{b:02x}" for b in name.encode("utf-8", "surrogatepass"))
        for place in ("items", "grid", "progress"):
            assert served.get(f"/api/{place}?annotator={quoted}&n=1").status == 400


@pytest.mark.parametrize("name", ["Ada", "Zoë", "李", "O'Brien <b>", "7", "x" * 60])
def test_people_have_many_names(served, name):
    item = served.items()[0]
    assert served.answer(item, annotator=name).status == 200
    assert [d.annotator for d in served.log] == [name]


BAD = [
    {"label": True},
    {"label": 0.0},
    {"label": "0"},
    {"label": 3},
    {"label": -1},
    {"label": None},
    {"label": 10**30},
    {"action": "undo", "label": None},
    {"action": "delete", "label": None},
    {"action": "skip"},
    {"action": ["label"]},
    {"action": None},
    {"key": "0" * 24},
    {"key": 0},
    {"key": None},
    {"key": "../../etc/passwd"},
    {"seconds": True},
    {"seconds": "1"},
    {"seconds": -1},
    {"seconds": None},
    {"seconds": 1e10},
    {"more": 1},
]


@pytest.mark.parametrize("change", BAD, ids=str)
def test_an_answer_that_makes_no_sense_is_refused_with_all_beside_it(served, change):
    good, bad = served.items(n=2)
    values = [{"key": i["key"], "action": "label", "label": 0, "seconds": 1} for i in (good, bad)]
    values[1] |= change
    reply = served.post("/api/answers", {"annotator": "Ada", "answers": values})
    assert (reply.status, [*reply.json()]) == (400, ["error"])
    assert served.log == []


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"x",
        b"[]",
        b"null",
        b"1",
        b"{}",
        b'{"annotator":"Ada"}',
        b"\xff\xfe",
        b"[" * 60000,
        b'{"a":' * 10000,
        b'{"annotator":"Ada","answers":[]}',
        b'{"annotator":"Ada","answers":{}}',
        b'{"annotator":"Ada","answers":[1]}',
        b'{"annotator":"Ada","answers":[' + b"{}," * 300 + b"{}]}",
        b'{"annotator":"Ada","answers":null,"x":1}',
        b"9" * 9999,
    ],
    ids=lambda b: b[:30].decode("latin-1"),
)
def test_a_body_of_another_shape_is_refused(served, body):
    reply = served.post("/api/answers", body)
    assert (reply.status, [*reply.json()]) == (400, ["error"])


@pytest.mark.parametrize("seconds", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_numbers_are_finite(served, seconds):
    key = served.items()[0]["key"]
    body = f'{{"annotator":"Ada","answers":[{{"key":"{key}","action":"skip","label":null,"seconds":{seconds}}}]}}'
    assert served.post("/api/answers", body.encode()).status == 400
    assert served.log == []


@pytest.mark.parametrize("kind", ["text/plain", "", "application/x-www-form-urlencoded", "application/json; charset=x"])
def test_forms_of_other_pages_are_no_json(served, kind):
    assert served.post("/api/undo", {"annotator": "Ada"}, **{"content-type": kind}).status == 415


def test_a_long_body_is_refused_before_it_is_read(served):
    async def app(scope, receive, send):
        await served.app(scope, None, send)  # reading would raise

    for length in (MAX_BODY + 1, 10**9, 10**18):
        assert request(app, "POST", "/api/answers", {**POST, "content-length": str(length)}).status == 413
    for length in ("-1", "x", "1e9", "", "5, 5"):
        assert request(app, "POST", "/api/answers", {**POST, "content-length": length}).status == 400


def test_a_body_of_unknown_length_is_read_up_to_the_limit(served):
    taken = []
    endless = (taken.append(1) or b" " * 10_000 for _ in itertools.count())
    reply = request(served.app, "POST", "/api/answers", {**POST, "transfer-encoding": "chunked"}, endless)
    assert (reply.status, reply.headers["connection"]) == (413, "close")
    assert len(taken) < 12


def test_a_body_that_trickles_in_is_not_waited_for(served, monkeypatch):
    monkeypatch.setattr(labeling.bodies, "BODY_SECONDS", 0.05)

    async def app(scope, receive, send):
        await served.app(scope, partial(asyncio.sleep, 5), send)

    assert request(app, "POST", "/api/answers", POST).status == 408


def test_a_get_has_no_body(served):
    assert served.get("/api/project", **{"content-length": "5"}).status == 400
    assert served.get("/", **{"transfer-encoding": "chunked"}).status == 400


# What goes wrong


def test_an_answer_that_cannot_be_written_may_be_sent_again(served, monkeypatch):
    item = served.items()[0]

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    reply = served.answer(item)
    assert reply.status == 503
    assert "No space left" in reply.json()["error"]
    monkeypatch.setattr(os, "fsync", lambda _: None)
    assert served.answer(item).status == 200
    assert len(served.log) == 1


def test_what_the_session_refuses_is_said_in_one_line(served, monkeypatch):
    def decide(*_):
        raise UserError("this makes no sense")

    monkeypatch.setattr(served.desk.session, "decide", decide)
    reply = served.answer(served.items()[0])
    assert (reply.status, reply.json()) == (409, {"error": "this makes no sense"})


def test_a_bug_shows_no_traceback(served, monkeypatch):
    monkeypatch.setattr(served.desk.session, "progress", lambda _: 1 / 0)
    replies = []

    async def app(scope, receive, send):
        with pytest.raises(ZeroDivisionError):  # for the terminal
            await served.app(scope, receive, send)

    replies.append(request(app, "GET", "/api/progress?annotator=Ada", OWN))
    assert replies[0].status == 500
    assert replies[0].json() == {"error": "label.py failed; the terminal in which it runs says why"}
    assert replies[0].headers["x-content-type-options"] == "nosniff"


# Hostile names


def test_names_are_text_whatever_they_hold(tmp_path):
    classes = ('"><script>alert(1)</script>'.replace("/", "|"), "it's", "\u202egnp.exe", "=1+1")
    root = tmp_path / "DATA" / "birds" / "unlabeled"
    root.mkdir(parents=True)
    names = ["<img src=x onerror=alert(1)>.png", '"quoted".png', "new\nline.png", "=cmd.png", "\u202egnp.png"]
    for name in names:
        Image.new("RGB", (8, 8), (len(name), 0, 0)).save(root / name)
    raw = os.fsencode(root) + b"/\xff\xfe.png"
    with open(raw, "wb") as f:
        Image.new("RGB", (8, 8)).save(f, "PNG")
    made = Served(tmp_path, classes=classes, n_val=0)
    reply = made.get("/api/project")
    assert reply.json()["classes"] == [classes[0], "it's", "\\u202egnp.exe", "=1+1"]
    assert reply.headers["content-type"] == "application/json"
    items = made.items(n=10)
    shown = {item["path"] for item in items}
    assert len(shown) == 6
    assert "unlabeled/new\\nline.png" in shown
    assert "unlabeled/\\u202egnp.png" in shown
    assert made.get("/api/items?annotator=Ada&n=10").content.isascii()
    for item in items:
        assert made.answer(item, 3).status == 200
        assert made.get(f"/api/images/{item['index']}").headers["content-type"] == "image/png"
    assert {d.label for d in made.log} == {"=1+1"}
    made.desk.close()


# Pictures


def picture(path, side=LARGE):
    made = make_picture(path, side)
    assert not isinstance(made, str), made
    image = Image.open(io.BytesIO(made.content))
    assert made.media_type == f"image/{image.format.lower()}"
    return image


@pytest.mark.parametrize("text", ["<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>", "<html>"])
def test_what_is_no_image_is_never_sent(tmp_path, text):
    root = tmp_path / "DATA" / "birds" / "unlabeled"
    root.mkdir(parents=True)
    for i in range(3):
        Image.new("RGB", (8, 8), (i, 0, 0)).save(root / f"{i}.png")
    (root / "0.jpg").write_text(text)
    made = Served(tmp_path, n_val=0)
    replies = [made.get(f"/api/{place}/{i}") for i in range(4) for place in ("images", "thumbnails")]
    kinds = [r.headers["content-type"] for r in replies]
    assert sorted({*kinds}) == ["application/json", "image/png"]
    bad = [r for r in replies if r.headers["content-type"] == "application/json"]
    assert [r.status for r in bad] == [200, 200]
    assert all(r.json()["unreadable"].startswith("cannot identify image file") for r in bad)
    assert not any(str(tmp_path).encode() in r.content for r in replies)
    made.desk.close()


@pytest.mark.parametrize("size", [50, 300])
def test_pictures_are_made_anew_and_keep_nothing_of_the_file(tmp_path, size):
    path = tmp_path / "x.png"
    exif = Image.Exif()
    exif[0x010E] = "secret place"
    Image.effect_noise((size, size), 90).save(path, exif=exif)
    path.write_bytes(path.read_bytes() + b"<script>alert(1)</script>")
    content = make_picture(path, LARGE).content
    assert b"secret" not in content
    assert b"script" not in content


def test_images_are_large_and_thumbnails_small(tmp_path):
    root = tmp_path / "DATA" / "birds" / "unlabeled"
    root.mkdir(parents=True)
    for i in range(2):
        Image.new("RGB", (1500, 900), (i, 0, 0)).save(root / f"{i}.png")
    made = Served(tmp_path, n_val=0)
    found = [made.get(f"/api/{place}/1") for place in ("images", "thumbnails")]
    assert [max(Image.open(io.BytesIO(reply.content)).size) for reply in found] == [LARGE, SMALL]
    assert (LARGE, SMALL) == (1024, 256)
    made.desk.close()


@pytest.mark.parametrize("size", [(3000, 2000), (200, 3000), (5000, 10), (1024, 1024), (640, 480)])
@pytest.mark.parametrize("side", [LARGE, SMALL])
def test_a_picture_is_as_large_as_it_may_be_and_no_larger(tmp_path, size, side):
    Image.effect_noise(size, 50).save(tmp_path / "x.jpg")
    made = picture(tmp_path / "x.jpg", side)
    factor = min(1, side / max(size))
    assert made.size == pytest.approx([max(1, v * factor) for v in size], abs=1)


def test_small_images_lose_no_pixel(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (28, 28, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "x.png")
    assert (np.asarray(picture(tmp_path / "x.png")) == pixels).all()


def test_pictures_are_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    Image.new("RGB", (600, 400)).save(tmp_path / "x.jpg", exif=exif)
    assert picture(tmp_path / "x.jpg").size == (400, 600)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGBA", "LA", "CMYK", "I;16", "F"])
def test_pictures_of_all_modes(tmp_path, mode):
    suffix = "tif" if mode in ("CMYK", "F") else "png"
    Image.new(mode, (300, 300)).save(tmp_path / f"x.{suffix}")
    assert picture(tmp_path / f"x.{suffix}").size == (300, 300)


def test_an_image_that_would_fill_the_memory_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("labeling.pictures.memory_for_decoding", lambda: 2**24)
    Image.new("RGB", (3000, 3000)).save(tmp_path / "x.png")
    assert "megapixels" in make_picture(tmp_path / "x.png", LARGE) or "GB" in make_picture(tmp_path / "x.png", LARGE)


def test_a_missing_image_has_a_reason(tmp_path):
    assert make_picture(tmp_path / "x.png", LARGE) == "No such file or directory"


def test_the_cache_is_bounded_and_saves_work(tmp_path, monkeypatch):
    monkeypatch.setattr("labeling.pictures.CACHE_BYTES", 3000)
    assert CACHE_BYTES <= 2**27
    paths = [tmp_path / f"{i}.png" for i in range(3)]
    for i, path in enumerate(paths):
        Image.fromarray(np.random.default_rng(i).integers(0, 256, (20, 20, 3), np.uint8)).save(path)
    made = []
    monkeypatch.setattr("labeling.pictures.make_picture", lambda p, s: made.append(p) or make_picture(p, s))

    async def look():
        pictures = Pictures()
        for path in [*paths[:2], *paths[:2], paths[2], paths[1], paths[0]]:
            await pictures.get(path, LARGE)
        assert pictures._n_bytes == sum(len(p.content) for p in pictures._cache.values()) <= 3000
        pictures.close()

    asyncio.run(look())
    assert made == [*paths, paths[0]]
