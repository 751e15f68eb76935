"""Filters of FFmpeg (libavfilter) that decoded pictures pass through where they need them."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import suppress
from fractions import Fraction

import av
from av.filter import Graph
from av.video.frame import VideoFrame

from unmask.videos.container import Margins


def deinterlaced(frames: Iterable[tuple[float, VideoFrame]]) -> Iterator[tuple[float, VideoFrame]]:
    """Yield pictures with their times, those that are marked as interlaced through `bwdif`.

    The filter also needs the pictures before and after an interlaced one. From the first interlaced
    picture on, all pictures pass through the filter, which returns progressive ones unchanged.
    """
    graph: Graph | None = None
    layout: tuple[int, int, str] | None = None
    times: deque[float] = deque()  # of the pictures inside the filter
    for time, frame in frames:
        if graph is None and not frame.interlaced_frame:
            yield time, frame
            continue
        own = frame.width, frame.height, frame.format.name
        if graph is None or own != layout:
            if graph is not None:
                yield from _pulled(graph, times, last=True)
            graph = _create_graph(frame, "bwdif", "mode=send_frame:parity=auto:deint=interlaced")
            layout = own
        times.append(time)
        graph.push(frame)
        yield from _pulled(graph, times)
    if graph is not None:
        yield from _pulled(graph, times, last=True)


def _pulled(
    graph: Graph, times: deque[float], last: bool = False
) -> Iterator[tuple[float, VideoFrame]]:
    """Yield what the filter has finished: one picture for each that was pushed, in order."""
    if last:
        graph.push(None)
    with suppress(av.error.BlockingIOError, av.error.EOFError):
        while times:
            frame = graph.vpull()
            yield times.popleft(), frame


def cropped(frame: VideoFrame, margins: Margins) -> VideoFrame:
    """Return a picture without its margins; a corner inside a pixel of chroma moves outwards."""
    left, right, top, bottom = margins
    width, height = frame.width - left - right, frame.height - top - bottom
    graph = _create_graph(frame, "crop", f"{width}:{height}:{left}:{top}")
    graph.push(frame)
    return graph.vpull()


def _create_graph(frame: VideoFrame, name: str, arguments: str) -> Graph:
    """Return a graph of one filter, for pictures of the size and pixel format of `frame`."""
    graph = Graph()
    graph.threads = 1
    source = graph.add_buffer(
        width=frame.width,
        height=frame.height,
        format=frame.format,
        time_base=frame.time_base or Fraction(1, 25),
    )
    sink = graph.add("buffersink")
    graph.link_nodes(source, graph.add(name, arguments), sink).configure()
    return graph
