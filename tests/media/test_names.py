"""Names that libav would take for more than a file: they are files, or they are nothing.

Playlists, concat scripts, pipes and devices: tests/video/test_bad_input.py. Names of real files
with colons, dashes, line breaks and invalid UTF-8: tests/video/test_frames.py.
"""

from __future__ import annotations

import socket
from pathlib import Path

import numpy as np
import pytest

from tokenreduce.errors import InputError
from tokenreduce.video.decoder import Decoder
from tokenreduce.video.types import Request

PROTOCOLS = [
    "file:{path}",
    "file://{path}",
    "concat:{path}",
    "concatf:{path}",
    "subfile,,start,0,end,0,,:{path}",
    "crypto:{path}",
    "cache:{path}",
    "async:{path}",
    "data:video/mp4;base64,AAAA",
    "pipe:0",
    "pipe:",
    "fd:0",
    "-",
    "md5:{path}",
    "tee:{path}",
    "unix:{path}",
    "ftp://127.0.0.1:{port}/a.mp4",
    "rtmp://127.0.0.1:{port}/a",
    "rtsp://127.0.0.1:{port}/a",
    "rtp://127.0.0.1:{port}",
    "udp://127.0.0.1:{port}",
    "hls+http://127.0.0.1:{port}/a.m3u8",
    "HTTP://127.0.0.1:{port}/A.MP4",
    "gopher://127.0.0.1:{port}/",
]


@pytest.mark.parametrize("name", PROTOCOLS)
def test_a_protocol_is_a_name_that_no_file_has(
    name: str,
    tmp_path: Path,
    tiny_video: Path,
    decoder: Decoder,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.05)
        given = name.format(path=tiny_video, port=server.getsockname()[1])
        with pytest.raises(InputError, match=r"no such file|only local files are read") as caught:
            decoder.probe(given)
        assert len(str(caught.value).splitlines()) == 1
        with pytest.raises(TimeoutError):
            server.accept()


@pytest.mark.parametrize(
    "name", ["pipe:0", "http:x.mp4", "data:,x", "subfile,,start,0,end,0,,:x.mp4", "-i", "@x", "~"]
)
def test_where_a_file_has_the_name_it_is_that_file(
    name: str,
    tmp_path: Path,
    tiny_video: Path,
    decoder: Decoder,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(name).write_bytes(tiny_video.read_bytes())
    (frame,) = decoder.frames(name, Request(1, 16))
    (same,) = decoder.frames(tiny_video, Request(1, 16))
    np.testing.assert_array_equal(frame.pixels, same.pixels)


MANIFESTS = {
    "dash.mpd": (
        '<?xml version="1.0"?>\n<MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" '
        'mediaPresentationDuration="PT2S"><Period><AdaptationSet mimeType="video/mp4">'
        '<Representation id="1" bandwidth="1"><BaseURL>{target}</BaseURL></Representation>'
        "</AdaptationSet></Period></MPD>"
    ),
    "smooth.ism": '<SmoothStreamingMedia><StreamIndex Url="{target}"/></SmoothStreamingMedia>',
    "redirect.asx": '<asx version="3.0"><entry><ref href="{target}"/></entry></asx>',
    "list.pls": "[playlist]\nFile1={target}\nNumberOfEntries=1\n",
    "lines.m3u": "{target}\n",
    "avs.avs": 'DirectShowSource("{target}")\n',
    "picture.svg": '<svg xmlns="http://www.w3.org/2000/svg"><image href="{target}"/></svg>',
    "imf.xml": (
        '<CompositionPlaylist xmlns="http://www.smpte-ra.org/schemas/2067-3/2016">'
        "<Id>{target}</Id></CompositionPlaylist>"
    ),
}


@pytest.mark.parametrize("name", MANIFESTS)
@pytest.mark.parametrize("disguise", [False, True])
def test_manifests_are_not_followed(
    name: str, disguise: bool, tmp_path: Path, tiny_video: Path, decoder: Decoder
) -> None:
    """Neither to the network nor to another file, under their own name or a video's."""
    path = tmp_path / (f"{name}.mp4" if disguise else name)
    secret = tmp_path / "secret.mp4"
    secret.write_bytes(tiny_video.read_bytes())
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.05)
        port = server.getsockname()[1]
        for target in (str(secret), "secret.mp4", f"http://127.0.0.1:{port}/a.mp4"):
            path.write_text(MANIFESTS[name].format(target=target))
            with pytest.raises(InputError, match="not a video"):
                decoder.probe(path)
        with pytest.raises(TimeoutError):
            server.accept()


def test_a_name_as_long_as_there_can_be(tmp_path: Path, tiny_video: Path, decoder: Decoder) -> None:
    deep = tmp_path
    while len(str(deep)) < 3500:
        deep = deep / ("d" * 200)
    deep.mkdir(parents=True)
    path = deep / ("x" * 200 + ".mp4")
    path.write_bytes(tiny_video.read_bytes())
    assert decoder.probe(path).frames == 60
