"""What an encoded picture declares, checked before a decoder allots it.

A decoder allots what the file asks for: a tile of 1 GB around a picture of 16x16 pixels, a canvas,
a Python object for each of a million numbers. These checks read as little of the file as bounds
that, and leave everything else, such as damage, to Pillow.
"""

import re
import struct
from collections.abc import Callable
from contextlib import suppress

from jaxcifar.common.errors import ImageFileError

MAX_BYTES = 100_000_000  # of a picture's file
MAX_PIXELS = 50_000_000  # 150 MB decoded; a phone's camera makes 12 to 50 million
# Pillow keeps a pointer for each row: in a column of 50 million pixels twice the pixels' own bytes.
MAX_SIDE = 1_000_000
# Bytes that Pillow turns into Python objects, which are 10 to 40 times as large: EXIF, a JPEG's
# tables, a TIFF's arrays of numbers. Joining EXIF in a JPEG is quadratic: 60 MB took 17 s.
MAX_NUMBERS = 4_000_000
MAX_METADATA = 16_000_000  # bytes of text, profiles and EXIF in a PNG or WEBP, which Pillow copies
# Real JPEGs have about 10; at 49 Mpixels, each scan of only 14 bytes takes 9 ms.
MAX_SCANS = 1_000
MAX_SEGMENTS = 10_000  # of a JPEG before its pixels; 100 MB need 1,600
MAX_CHUNKS = 100_000  # of a PNG or WEBP; 100 MB in the smallest chunks that are usual are 12,000
MAX_PACKED = 256  # compressed texts and profiles in a PNG; each may unpack to 1 MB
MAX_BLOCKS = 250_000  # of a GIF before its first frame
MAX_RLE = 10_000_000  # pixels and bytes of a run-length BMP: Pillow decodes it in Python, 1 s
MAX_PLAIN = 5_000_000  # numbers of a PPM that Pillow decodes one by one in Python, in 4 s
MAX_COMMENTS = 1_000  # among them; each copies up to 1 MB
MAX_TAGS = 4_096  # in a directory of a TIFF, as in libtiff, whose work grows with their square
MAX_TILES = 500_000  # tiles or strips of a TIFF; Pillow needs 0.5 kB for each
MAX_TILE_SIDE = 4_096  # unless the picture is larger; usual tiles have 256 to 1,024 pixels a side
MAX_PIECE = 4 * MAX_PIXELS  # bytes of one of them, which libtiff decodes whole
_PLANES = 6  # samples per pixel that Pillow reads, at most

_NUMBER = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i", 13: "I"}
_NUMBER |= {16: "Q", 17: "q", 18: "Q"}  # by type of a tag
_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}
_BYTES |= {16: 8, 17: 8, 18: 8}
_UNPARSED = (1, 2, 7)  # types that stay bytes or text
_WIDTH, _HEIGHT, _BITS, _STRIPS, _SAMPLES, _ROWS, _PLANAR = 256, 257, 258, 273, 277, 278, 284
_TILE_WIDTH, _TILE_HEIGHT, _TILES = 322, 323, 324
_DIRECTORIES = (34665, 34853, 40965)  # EXIF, GPS and interoperability: Pillow reads them, too


def check_header(data: bytes, name: str) -> None:
    """Refuse a picture whose decoder would need far more than its pixels, by its header alone.

    Args:
        data: the whole file, in any format or none.
        name: what errors call it.

    Raises:
        ImageFileError: with what the file declares, the limit and the way out.
    """
    for start, check in _CHECKS:
        if data.startswith(start):
            # It ends within its header: Pillow says so.
            with suppress(struct.error, OverflowError, IndexError):
                check(data, name)


def check_size(width: int, height: int, name: str) -> None:
    """Refuse more than `MAX_PIXELS`, or a side longer than `MAX_SIDE`.

    Raises:
        ImageFileError: it is larger.
    """
    if width * height > MAX_PIXELS:
        raise ImageFileError(
            f"{name} is {width}x{height} pixels, more than the limit of {MAX_PIXELS:,} in all; "
            "make it smaller first"
        )
    if max(width, height) > MAX_SIDE:
        raise ImageFileError(
            f"{name} is {width}x{height} pixels, more than the limit of {MAX_SIDE:,} a side; "
            "make it smaller first"
        )


def _check(name: str, what: str, declared: int, limit: int, way_out: str) -> None:
    if declared > limit:
        raise ImageFileError(
            f"{name} declares {declared:,} {what}, more than the limit of {limit:,}; {way_out}"
        )


_STRIP = "save it again without its metadata"
_RESAVE = "save it again with an image editor"

# One 0xFF before it: with all of them, a file that ends in them takes quadratic time.
_MARKER = re.compile(rb"\xff([^\xff])", re.DOTALL)
_MARKER_IN_SCAN = re.compile(rb"\xff([^\xff\x00\xd0-\xd7])", re.DOTALL)
_START_OF_SCAN, _END = 0xDA, 0xD9
# Markers that Pillow takes for nothing but themselves: restarts, start, end, extensions.
_WITHOUT_LENGTH = {0xC8, *range(0xD0, 0xDA), *range(0xF0, 0xFE)}
_APPLICATION = {*range(0xE0, 0xF0), 0xFE}  # and comments: kept as bytes


def _check_jpeg(data: bytes, name: str) -> None:
    """Walks the segments before the pixels as Pillow does."""
    at, segments, tables, exif = 2, 0, 0, 0
    while marker := _MARKER.search(data, at):
        if segments > MAX_SEGMENTS or max(exif, tables) > MAX_NUMBERS:
            break
        segments += 1
        tables += marker.end() - 2 - at  # padding, which Pillow reads byte by byte
        kind, at = marker[1][0], marker.end()
        if kind == _START_OF_SCAN:
            break
        if kind >= 0xC0 and kind not in _WITHOUT_LENGTH:
            (length,) = struct.unpack_from(">H", data, at)
            if kind == 0xE1 and data.startswith(b"Exif\0\0", at + 2):
                exif += length
            elif kind not in _APPLICATION:
                tables += length
            at += max(length, 2)
    _check(name, "segments", segments, MAX_SEGMENTS, _STRIP)
    _check(name, "bytes of EXIF", exif, MAX_NUMBERS, _STRIP)
    _check(name, "bytes of tables and padding", tables, MAX_NUMBERS, _RESAVE)
    _check_scans(data, at, name)


def _check_scans(data: bytes, at: int, name: str) -> None:
    """From the first scan to the end of the picture; phones append whole videos after it."""
    scans = 1
    while marker := _MARKER_IN_SCAN.search(data, at):
        kind, at = marker[1][0], marker.end()
        if kind == _END:
            break
        scans += kind == _START_OF_SCAN
        if scans > MAX_SCANS:
            raise ImageFileError(
                f"{name} is a JPEG of more than {MAX_SCANS:,} scans: refused; {_RESAVE}"
            )
        if kind >= 0xC0 and kind not in _WITHOUT_LENGTH:
            at += max(int.from_bytes(data[at : at + 2], "big"), 2)


def _check_png(data: bytes, name: str) -> None:
    """Up to its end, behind which no reader looks: some programs append data of their own."""
    at, chunks, packed, metadata = 8, 0, 0, 0
    while at + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        chunks += 1
        packed += kind in (b"zTXt", b"iTXt", b"iCCP")
        if kind in (b"tEXt", b"zTXt", b"iTXt", b"iCCP", b"eXIf"):
            metadata += length
            # Pillow takes EXIF from a text of these names, too.
            if data.startswith((b"exif\0", b"Raw profile type exif\0"), at + 8) or kind == b"eXIf":
                _check(name, "bytes of EXIF", length, MAX_NUMBERS, _STRIP)
        at += 12 + length
        _check(name, "chunks", chunks, MAX_CHUNKS, _RESAVE)
        if kind == b"IEND":
            break
    _check(name, "compressed texts and profiles", packed, MAX_PACKED, _STRIP)
    _check(name, "bytes of metadata", metadata, MAX_METADATA, _STRIP)


def _check_gif(data: bytes, name: str) -> None:
    """Up to the first frame, which may be larger than the screen, and is then the picture."""
    width, height, flags = struct.unpack_from("<HHB", data, 6)
    check_size(width, height, name)
    at, blocks = 13 + (3 << (flags & 7) + 1 if flags & 0x80 else 0), 0
    while data[at] not in b",;":
        if data[at] == 0x21:  # an extension: its kind, then blocks up to an empty one
            kind, text = data[at + 1], data[at + 3 : at + 3 + data[at + 2]]
            # Pillow reads so many blocks even if they are empty.
            least = 0 if kind == 0xFE else 1 + (kind == 0xFF and text.startswith(b"NETSCAPE2.0"))
            at += 2
            while data[at] or least > 0:
                least, at, blocks = least - 1, at + 1 + data[at], blocks + 1
                _check(name, "blocks before its first frame", blocks, MAX_BLOCKS, _RESAVE)
        at, blocks = at + 1, blocks + 1
        _check(name, "blocks before its first frame", blocks, MAX_BLOCKS, _RESAVE)
    if data[at] == 0x2C:
        left, top, columns, rows = struct.unpack_from("<4H", data, at + 1)
        check_size(max(width, left + columns), max(height, top + rows), name)


def _check_webp(data: bytes, name: str) -> None:
    """Pillow allots two canvases before it can be asked for the size.

    libwebp does not look behind the end that the file declares.
    """
    if data[8:12] != b"WEBP":
        return
    if data[12:16] == b"VP8X":
        width, height = (int.from_bytes(data[i : i + 3], "little") + 1 for i in (24, 27))
        check_size(width, height, name)
    elif data[12:16] == b"VP8L" and data[20] == 0x2F:
        (bits,) = struct.unpack_from("<I", data, 21)
        check_size((bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1, name)
    elif data[12:16] == b"VP8 " and data[23:26] == b"\x9d\x01*":
        width, height = struct.unpack_from("<HH", data, 26)
        check_size(width & 0x3FFF, height & 0x3FFF, name)
    at, chunks, metadata = 12, 0, 0
    end = min(len(data), 8 + struct.unpack_from("<I", data, 4)[0])
    while at + 8 <= end:
        chunks += 1
        _check(name, "chunks", chunks, MAX_CHUNKS, _RESAVE)
        kind, length = struct.unpack_from("<4sI", data, at)
        if kind in (b"ICCP", b"EXIF", b"XMP "):
            metadata += length
        if kind == b"EXIF":
            _check(name, "bytes of EXIF", length, MAX_NUMBERS, _STRIP)
        at += 8 + length + length % 2
    _check(name, "bytes of metadata", metadata, MAX_METADATA, _STRIP)


def _check_bmp(data: bytes, name: str) -> None:
    header, width, height, _, compression = struct.unpack_from("<Iii4sI", data, 14)
    if header > 12 and compression in (1, 2):
        way_out = "save it without compression"
        _check(name, "run-length pixels", abs(width * height), MAX_RLE, way_out)
        _check(name, "run-length bytes", len(data), MAX_RLE, way_out)


def _check_tiff(data: bytes, name: str) -> None:
    if data.startswith(b"MM\0+"):
        raise ImageFileError(f"{name} is a big-endian BigTIFF, which is not read; {_RESAVE}")
    directory = _Directory(data, name)
    directory.read(directory.number(directory.offset, 8 if directory.big else 4))
    values = directory.values
    width, height = min(values.get(_WIDTH, [0])), min(values.get(_HEIGHT, [0]))
    check_size(width, height, name)
    tile_width, tile_height = max(values.get(_TILE_WIDTH, [0])), max(values.get(_TILE_HEIGHT, [0]))
    if tile_width > max(MAX_TILE_SIDE, 2 * width) or tile_height > max(MAX_TILE_SIDE, 2 * height):
        raise ImageFileError(
            f"{name} declares tiles of {tile_width}x{tile_height} pixels for a picture of "
            f"{width}x{height}, more than the limit of {MAX_TILE_SIDE:,} or twice the picture a "
            "side; save it again with smaller tiles"
        )
    _check(name, "tiles or strips", directory.pieces, MAX_TILES, _RESAVE)
    samples, bits, planar = (max(values.get(tag, [1])) for tag in (_SAMPLES, _BITS, _PLANAR))
    pixel = bits * (1 if planar == 2 else samples)
    strip_height = min(max(values.get(_ROWS, [height])), height)
    for side, other in ((tile_width, tile_height), (width, strip_height)):
        _check(name, "bytes in a tile or strip", side * other * pixel // 8, MAX_PIECE, _RESAVE)
    if _STRIPS in values:
        tile_width, tile_height = width, strip_height
    area = directory.pieces * min(tile_width, width) * min(tile_height, height)
    _check(name, "pixels in all tiles or strips", area, _PLANES * MAX_PIXELS, _RESAVE)


class _Directory:
    """The tags of a TIFF's first page, and of the directories that they point to.

    Attributes:
        values: of each tag that is a whole number; those of a tag that stands there twice are all
            kept, as readers differ in which of them counts.
        pieces: tiles or strips.
    """

    def __init__(self, data: bytes, name: str) -> None:
        self._data, self._name = data, name
        self._order = ">" if data.startswith(b"MM") else "<"
        self.big = data[2] == 43
        self.offset = 8 if self.big else 4
        self.values: dict[int, list[int]] = {}
        self.pieces = self._tags = self._numbers = self._size = 0

    def number(self, offset: int, size: int) -> int:
        """An unsigned number of 2, 4 or 8 bytes."""
        form = self._order + {2: "H", 4: "I", 8: "Q"}[size]
        return int(struct.unpack_from(form, self._data, offset)[0])

    def read(self, offset: int, depth: int = 0) -> None:
        """Raises ImageFileError if there are too many tags, or they hold too much."""
        count_size, step = (8, 20) if self.big else (2, 12)
        try:
            tags = self.number(offset, count_size)
            if depth and tags > MAX_TAGS:
                return  # junk, which nobody reads: `image_file` turns a TIFF by its first directory
            self._tags += tags
            _check(self._name, "tags", self._tags, MAX_TAGS, _STRIP)
            for i in range(tags):
                self._read_tag(offset + count_size + i * step, depth)
        except (struct.error, OverflowError):  # it ends with the file: Pillow uses the tags before
            return

    def _read_tag(self, at: int, depth: int) -> None:
        word = 8 if self.big else 4
        tag, kind = self.number(at, 2), self.number(at + 2, 2)
        count, value = self.number(at + 4, word), at + 4 + word
        size = count * _BYTES.get(kind, 0)
        if size > word:
            value = self.number(value, word)
        if value + size > len(self._data):
            return  # no reader gets it
        # Tags that share their data make as many copies of it.
        self._size += size
        _check(self._name, "bytes of tags in a file of fewer", self._size, len(self._data), _STRIP)
        if kind not in _UNPARSED:
            self._numbers += size
            _check(self._name, "bytes of numbers in tags", self._numbers, MAX_NUMBERS, _STRIP)
        if tag in (_STRIPS, _TILES):
            self.pieces = max(self.pieces, count)
        if count and kind in _NUMBER:
            first = int(struct.unpack_from(self._order + _NUMBER[kind], self._data, value)[0])
            if depth == 0:
                self.values.setdefault(tag, []).append(first)
            if tag in _DIRECTORIES and depth < 2 and 0 < first < len(self._data):
                self.read(first, depth + 1)


_SPACE = rb"(?:[ \t\n\v\f\r]|#[^\r\n]*[\r\n])++"  # possessive: it keeps no places to go back to
_PPM = re.compile(rb"P([1-6])" + _SPACE + rb"(\d{1,10})" + _SPACE + rb"(\d{1,10})([ \t\n\v\f\r#])")
_MAXVAL = re.compile(_SPACE + rb"(\d{1,10})[ \t\n\v\f\r]")
_MAX_PPM_HEADER = 65_536  # bytes; Pillow reads them one by one


def _check_ppm(data: bytes, name: str) -> None:
    """PBM, PGM and PPM, plain or not: the file must be as long as its header says.

    Pillow decodes plain ones and depths other than 8 bits (16 for grey) number by number.
    """
    header = _PPM.match(data, 0, _MAX_PPM_HEADER)
    if header is None:
        raise ImageFileError(
            f"{name} is not an image, or is damaged: its header is not that of a PBM, PGM or PPM "
            f"(P1 to P6) of at most {_MAX_PPM_HEADER:,} bytes; {_RESAVE}"
        )
    kind, width, height = (int(number) for number in header.groups()[:3])
    check_size(width, height, name)
    plain, channels, maxval, start = kind <= 3, 3 if kind % 3 == 0 else 1, 1, header.end()
    if kind % 3 != 1:
        depth = _MAXVAL.match(data, header.end() - 1, _MAX_PPM_HEADER)
        if depth is None or not 0 < int(depth[1]) < 65_536:
            raise ImageFileError(
                f"{name} is a PGM or PPM without a largest value of 1 to 65,535; {_RESAVE}"
            )
        maxval, start = int(depth[1]), depth.end()
    numbers = width * height * channels
    if plain:
        least = numbers if kind == 1 else 2 * numbers - 1  # digits, with a space between
        _check(name, "comments", data.count(b"#"), MAX_COMMENTS, _RESAVE)
    else:
        row = -(-width // 8) if kind == 4 else width * channels * (1 if maxval < 256 else 2)
        least = row * height
    if plain or not (kind == 4 or maxval == 255 or (kind == 5 and maxval == 65_535)):
        _check(name, "numbers to be decoded one by one", numbers, MAX_PLAIN, "save it as PNG")
    if len(data) - start < least:
        raise ImageFileError(
            f"{name} is a damaged or cut-off image: its header says {width}x{height} pixels, at "
            f"least {least:,} bytes, and {max(0, len(data) - start):,} follow; {_RESAVE}"
        )


# As Pillow tells formats apart.
_CHECKS: tuple[tuple[bytes | tuple[bytes, ...], Callable[[bytes, str], None]], ...] = (
    (b"\xff\xd8\xff", _check_jpeg),
    (b"\x89PNG\r\n\x1a\n", _check_png),
    ((b"GIF87a", b"GIF89a"), _check_gif),
    (b"RIFF", _check_webp),
    (b"BM", _check_bmp),
    (tuple(b"P%c" % letter for letter in b"0123456fy"), _check_ppm),
    ((b"MM\0*", b"II*\0", b"MM*\0", b"II\0*", b"MM\0+", b"II+\0"), _check_tiff),
)
