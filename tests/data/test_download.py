import contextlib
import hashlib
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from jaxcifar.common.errors import DataError
from jaxcifar.data.download import Patience, Remote, fetch

DATA = np.random.default_rng(0).bytes(300_000)
# A busy machine may take a second to answer itself.
QUICK = Patience(timeout=5, give_up=60, slow=0, slow_after=60)


@dataclass
class Mirror:
    """How a local server behaves, and the ranges it was asked for."""

    data: bytes = DATA
    cut_after: int | None = None  # bytes of each answer after which it hangs up
    cuts: int = 1_000_000  # how many answers are cut
    ranges: bool = True
    status: int | None = None
    delay: float = 0.0  # seconds between pieces of 10,000 bytes
    content_range: str | None = None
    length: bool = True
    url: str = ""
    asked: list[str | None] = field(default_factory=list)

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        asked = handler.headers.get("Range")
        self.asked.append(asked)
        if self.status:
            return handler.send_error(self.status)
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and self.ranges else 0
        handler.send_response(206 if start else 200)
        if start:
            size = len(self.data)
            handler.send_header(
                "Content-Range", self.content_range or f"bytes {start}-{size - 1}/{size}"
            )
        if self.length:
            handler.send_header("Content-Length", str(len(self.data) - start))
        handler.end_headers()
        body = self.data[start:]
        if self.cut_after is not None and len(self.asked) <= self.cuts:
            body = body[: self.cut_after]
        for i in range(0, len(body), 10_000):
            handler.wfile.write(body[i : i + 10_000])
            time.sleep(self.delay)
        return None


@pytest.fixture
def serve():
    """Start a server for a `Mirror`; all are stopped at the end."""
    servers = []

    def start(mirror: Mirror) -> Mirror:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                    mirror.answer(self)

            def log_message(self, *_):
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        servers.append(server)
        mirror.url = f"http://127.0.0.1:{server.server_port}/file.bin"
        return mirror

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def remote(*mirrors: Mirror) -> Remote:
    return Remote(
        "file.bin", len(DATA), hashlib.sha256(DATA).hexdigest(), tuple(m.url for m in mirrors)
    )


def get(folder, *mirrors: Mirror, patience: Patience = QUICK) -> bytes:
    path = fetch(remote(*mirrors), folder, patience=patience, progress=False)
    assert [file.name for file in folder.iterdir()] == ["file.bin"]
    return path.read_bytes()


def test_a_file_arrives_whole_and_is_not_fetched_twice(tmp_path, serve):
    mirror = serve(Mirror())
    assert get(tmp_path, mirror) == DATA
    assert get(tmp_path, mirror) == DATA
    assert mirror.asked == [None]


def test_a_damaged_file_of_that_name_is_fetched_again(tmp_path, serve):
    (tmp_path / "file.bin").write_bytes(DATA[:-1])
    assert get(tmp_path, serve(Mirror())) == DATA


def test_a_cut_connection_is_resumed_where_it_stopped(tmp_path, serve):
    mirror = serve(Mirror(cut_after=100_000))
    assert get(tmp_path, mirror) == DATA
    assert mirror.asked == [None, "bytes=100000-", "bytes=200000-"]


def test_a_later_call_resumes_an_earlier_one(tmp_path, serve):
    (tmp_path / "file.bin.part").write_bytes(DATA[:70_000])
    mirror = serve(Mirror())
    assert get(tmp_path, mirror) == DATA
    assert mirror.asked == ["bytes=70000-"]


def test_another_mirror_continues_where_the_first_stopped(tmp_path, serve):
    first, second = serve(Mirror(cut_after=100_000)), serve(Mirror())
    first.answer = once(first.answer)
    assert get(tmp_path, first, second) == DATA
    assert second.asked == ["bytes=100000-"]


def once(answer):
    """The server dies after one answer."""
    left = [answer]

    def answer_once(handler):
        if left:
            return left.pop()(handler)
        return handler.send_error(503)

    return answer_once


def test_a_server_that_ignores_ranges_sends_everything_again(tmp_path, serve):
    mirror = serve(Mirror(cut_after=100_000, cuts=1, ranges=False))
    assert get(tmp_path, mirror) == DATA
    assert mirror.asked == [None, "bytes=100000-"]


def test_a_server_that_ignores_ranges_and_always_cuts_is_left(tmp_path, serve):
    bad, good = serve(Mirror(cut_after=100_000, ranges=False)), serve(Mirror())
    assert get(tmp_path, bad, good) == DATA
    assert len(bad.asked) == 2


def test_bytes_sent_from_the_start_replace_earlier_ones(tmp_path, serve):
    (tmp_path / "file.bin.part").write_bytes(b"x" * 150_000)
    first, second = serve(Mirror(cut_after=100_000, ranges=False)), serve(Mirror())
    assert get(tmp_path, first, second) == DATA
    assert second.asked == ["bytes=100000-"]


def test_an_error_page_does_not_cost_the_bytes_received(tmp_path, serve):
    (tmp_path / "file.bin.part").write_bytes(DATA[:70_000])
    sorry, good = serve(Mirror(data=b"<html>We are sorry.</html>", ranges=False)), serve(Mirror())
    assert get(tmp_path, sorry, good) == DATA
    assert good.asked == ["bytes=70000-"]


def test_a_server_that_answers_with_another_range_is_left(tmp_path, serve):
    (tmp_path / "file.bin.part").write_bytes(DATA[:70_000])
    bad = serve(Mirror(content_range=f"bytes 0-{len(DATA) - 1}/{len(DATA)}"))
    good = serve(Mirror())
    assert get(tmp_path, bad, good) == DATA
    assert good.asked == ["bytes=70000-"]


@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param(Mirror(data=DATA[:-1] + b"x"), id="one byte"),
        pytest.param(Mirror(data=b"<html>We are sorry.</html>"), id="a page"),
        pytest.param(Mirror(data=DATA + b"x", length=False), id="too long, no size given"),
        pytest.param(Mirror(data=DATA[:1000], length=False), id="too short, no size given"),
        pytest.param(Mirror(status=404), id="404"),
        pytest.param(Mirror(status=503), id="503"),
    ],
)
def test_the_next_mirror_is_tried_after_a_wrong_one(tmp_path, serve, wrong):
    wrong = serve(Mirror(**{key: value for key, value in vars(wrong).items() if key != "asked"}))
    right = serve(Mirror())
    assert get(tmp_path, wrong, right) == DATA
    assert wrong.asked[0] is None


def test_wrong_bytes_of_an_earlier_try_do_not_spoil_a_good_mirror(tmp_path, serve):
    (tmp_path / "file.bin.part").write_bytes(b"x" * 70_000)
    mirror = serve(Mirror())
    assert get(tmp_path, mirror) == DATA
    assert mirror.asked == ["bytes=70000-", None]


@pytest.mark.parametrize("left", [DATA + b"more", b"x" * len(DATA), DATA])
def test_a_part_as_long_as_the_file_is_checked_first(tmp_path, serve, left):
    (tmp_path / "file.bin.part").write_bytes(left)
    mirror = serve(Mirror())
    assert get(tmp_path, mirror) == DATA
    assert mirror.asked == ([] if left == DATA else [None])


def test_a_mirror_of_cut_wrong_bytes_is_not_tried_forever(tmp_path, serve):
    bad = serve(Mirror(data=b"x" * len(DATA), cut_after=200_000))
    assert get(tmp_path, bad, serve(Mirror())) == DATA
    assert len(bad.asked) == 4


def test_a_slow_mirror_is_left_for_a_faster_one(tmp_path, serve):
    slow, fast = serve(Mirror(delay=0.05)), serve(Mirror())
    patience = Patience(timeout=5, give_up=60, slow=1e6, slow_after=0.2)
    assert get(tmp_path, slow, fast, patience=patience) == DATA
    assert fast.asked[0] not in (None, "bytes=0-")  # the slow one's bytes are kept


def test_a_slow_mirror_is_better_than_none(tmp_path, serve):
    slow, dead = serve(Mirror(delay=0.02)), serve(Mirror(status=404))
    patience = Patience(timeout=5, give_up=60, slow=1e6, slow_after=0.1)
    assert get(tmp_path, slow, dead, patience=patience) == DATA


def test_if_no_mirror_has_it_each_reason_is_given_quickly(tmp_path, serve):
    silent = serve(Mirror(delay=3))
    silent.answer = lambda handler: time.sleep(3)
    gone, wrong = serve(Mirror(status=404)), serve(Mirror(data=b"x" * len(DATA)))
    nobody = Mirror(url="http://127.0.0.1:9/file.bin")
    start = time.monotonic()
    with pytest.raises(DataError) as caught:
        fetch(
            remote(silent, gone, wrong, nobody),
            tmp_path,
            patience=Patience(timeout=0.5, give_up=60),
            progress=False,
        )
    assert time.monotonic() - start < 3  # the silent one would take that long
    for reason in ("timed out", "HTTP 404", "the file it sent has SHA-256", "refused"):
        assert reason in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_silent_mirrors_share_one_time_limit(tmp_path, serve):
    silent = [serve(Mirror()) for _ in range(4)]
    for mirror in silent:
        mirror.answer = lambda handler: time.sleep(2)
    patience = Patience(timeout=0.2, give_up=0.3)
    with pytest.raises(DataError, match="not tried, as 0 s had passed"):
        fetch(remote(*silent), tmp_path, patience=patience, progress=False)


def test_received_bytes_are_kept_for_the_next_call(tmp_path, serve):
    mirror = serve(Mirror(cut_after=100_000))
    mirror.answer = once(mirror.answer)
    with pytest.raises(DataError, match="HTTP 503"):
        fetch(remote(mirror), tmp_path, patience=QUICK, progress=False)
    assert (tmp_path / "file.bin.part").read_bytes() == DATA[:100_000]


@pytest.mark.parametrize(
    "target", ["http://[::1", "http://a..b/", "file:///etc/passwd", "http://x:y/"]
)
def test_a_mirror_that_redirects_elsewhere_has_failed(tmp_path, serve, target):
    class Redirecting(Mirror):
        def answer(self, handler):
            handler.send_response(302)
            handler.send_header("Location", target)
            handler.end_headers()

    remote = Remote("x", 3, "0" * 64, (serve(Redirecting()).url,))
    with pytest.raises(DataError, match="x could not be downloaded"):
        fetch(remote, tmp_path, patience=QUICK, progress=False)
