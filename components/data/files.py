"""Reading people's files as streams of rows: local, S3 and Hugging Face; JSON lines, JSON arrays, CSV, Parquet, Arrow.

A file is cut into blocks that can be read on their own, by any process: byte ranges of plain JSON lines, row groups of
Parquet, else the whole file. One pass over a file gives its sha256 and its blocks with the number of their first line,
so that a row keeps its place in the file whoever reads it. No more than a block's line or batch is in memory.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import hashlib
import io
import json
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from components.artifacts.s3 import S3Objects
from components.failures import BadInput

BLOCK_BYTES = 32 << 20
READ_BYTES = 1 << 20
# A longer record is quarantined, not read: memory stays bounded whatever a file holds.
LONGEST_RECORD_BYTES = 64 << 20
PARQUET_BATCH = 256

COMPRESSIONS = (".gz", ".zst")
TEXT_FORMATS = (".jsonl", ".ndjson", ".json", ".csv")
EXTENSIONS = (
    *(extension + compression for extension in TEXT_FORMATS for compression in ("", *COMPRESSIONS)),
    ".parquet",
    ".arrow",
)

Problem = tuple[str, str]
NumberedRow = tuple[int, dict[str, Any] | None, Problem | None]


@dataclass(frozen=True)
class Block:
    """A part of a file: bytes, or row groups of Parquet, from `start` to `stop` (None: all of it).

    line: number of the first line or row, from 1.
    """

    uri: str
    start: int = 0
    stop: int | None = None
    line: int = 1


@dataclass(frozen=True)
class Scanned:
    sha256: str
    blocks: tuple[Block, ...]


def kind_of(uri: str) -> tuple[str, str]:
    """(`.jsonl`, `.json`, `.csv`, `.parquet` or `.arrow`, compression or empty); other endings are JSON lines."""
    name, compression = uri, ""
    for ending in COMPRESSIONS:
        if name.endswith(ending):
            name, compression = name.removesuffix(ending), ending
    for ending in (".csv", ".parquet", ".arrow", ".json"):
        if name.endswith(ending):
            return ending, compression
    return ".jsonl", compression


@contextmanager
def opened(uri: str) -> Iterator[BinaryIO]:
    """A seekable stream of the stored bytes. Raises BadInput when absent, InfrastructureError as the storage does."""
    try:
        if uri.startswith("s3://"):
            bucket, _, key = uri.removeprefix("s3://").partition("/")
            with S3Objects(bucket).open(key) as stream:
                yield stream
        elif uri.startswith("hf://"):
            from components.data.hub import open_file

            with open_file(uri) as stream:
                yield stream
        else:
            with Path(uri).open("rb") as stream:
                yield stream
    except FileNotFoundError as error:
        raise BadInput("no such object" if "://" in uri else "no such file", where=uri) from error


def scan(uri: str, block_bytes: int = BLOCK_BYTES) -> Scanned:
    """Digest and blocks of a file, in one pass (Parquet's footer is read apart)."""
    kind, compression = kind_of(uri)
    digest = hashlib.sha256()
    blocks: list[Block] = []
    start, position, lines, first_line = 0, 0, 0, 1
    splittable = kind == ".jsonl" and not compression
    with opened(uri) as stream:
        while part := stream.read(READ_BYTES):
            digest.update(part)
            if not splittable:
                continue
            cut = part.rfind(b"\n") + 1
            if cut and position + cut - start >= block_bytes:
                lines += part.count(b"\n", 0, cut)
                blocks.append(Block(uri, start, position + cut, first_line))
                start, first_line = position + cut, lines + 1
                lines += part.count(b"\n", cut)
            else:
                lines += part.count(b"\n")
            position += len(part)
    if kind == ".parquet":
        blocks = _row_groups(uri)
    elif not blocks or start < position:
        blocks.append(Block(uri, start, None, first_line))
    return Scanned(digest.hexdigest(), tuple(blocks))


def read_block(block: Block) -> Iterator[NumberedRow]:
    """(line or row number from 1, row, None), or (line, None, (field, reason)) for what is no record.

    Raises BadInput for a file that is not what its name says.
    """
    kind, compression = kind_of(block.uri)
    with ExitStack() as held:
        stream = held.enter_context(opened(block.uri))
        if kind == ".parquet":
            yield from _parquet(stream, block)
        elif kind == ".arrow":
            yield from _arrow(stream, block.uri)
        else:
            if block.start:
                stream.seek(block.start)
            left = None if block.stop is None else block.stop - block.start
            yield from rows_of(stream, kind, compression, block.uri, block.line, left)


def rows_of(
    stream: BinaryIO, kind: str, compression: str, uri: str, first_line: int = 1, left: int | None = None
) -> Iterator[NumberedRow]:
    """Rows of a text file's stream. left: bytes that belong to the block; None: all."""
    plain = _decompressed(stream, compression)
    try:
        if kind == ".csv":
            yield from _csv(plain)
        elif kind == ".json" and _is_array(plain):
            yield from _array(plain)
        else:
            yield from _lines(plain, first_line, left)
    except (OSError, EOFError, zlib.error) as error:
        raise BadInput(f"the {compression.lstrip('.') or 'file'} stream is damaged: {error}", where=uri) from None
    except Exception as error:
        if type(error).__name__ == "ZstdError":
            raise BadInput(f"the zst stream is damaged: {error}", where=uri) from None
        raise


def _decompressed(stream: BinaryIO, compression: str) -> io.BufferedReader:
    if compression == ".gz":
        return io.BufferedReader(gzip.GzipFile(fileobj=stream), READ_BYTES)
    if compression == ".zst":
        import zstandard

        reader = zstandard.ZstdDecompressor().stream_reader(stream, read_across_frames=True)
        return io.BufferedReader(reader, READ_BYTES)
    return stream if hasattr(stream, "peek") else io.BufferedReader(stream, READ_BYTES)


def _lines(stream: io.BufferedReader, number: int, left: int | None) -> Iterator[NumberedRow]:
    while left is None or left > 0:
        line = stream.readline(LONGEST_RECORD_BYTES)
        if not line:
            return
        size, rest = len(line), line
        while not rest.endswith(b"\n") and (rest := stream.readline(LONGEST_RECORD_BYTES)):
            size += len(rest)
        if left is not None:
            left -= size
        if size > len(line):
            yield number, None, ("line", f"{size} bytes, longer than {LONGEST_RECORD_BYTES}")
        elif line.strip():
            yield (number, *_object(line))
        number += 1


def _object(text: bytes | str) -> tuple[dict[str, Any] | None, Problem | None]:
    try:
        row = json.loads(text)
    except ValueError as error:
        return None, ("line", f"not JSON: {error}")
    except RecursionError:
        return None, ("line", "JSON nested too deeply")
    return _checked(row)


def _checked(row: Any) -> tuple[dict[str, Any] | None, Problem | None]:
    return (row, None) if isinstance(row, dict) else (None, ("line", f"a JSON {type(row).__name__}, not an object"))


def _is_array(stream: io.BufferedReader) -> bool:
    return stream.peek(64).lstrip(b"\xef\xbb\xbf \t\r\n")[:1] == b"["


def _array(stream: io.BufferedReader) -> Iterator[NumberedRow]:
    """The objects of one JSON array; numbers count them from 1."""
    decoder, decode = json.JSONDecoder(), codecs.getincrementaldecoder("utf-8-sig")("replace").decode
    buffer, number, ended = decode(stream.read(READ_BYTES)).lstrip()[1:], 1, False
    while True:
        buffer = buffer.lstrip(" \t\r\n,")
        if buffer.startswith("]"):
            return
        try:
            row, end = decoder.raw_decode(buffer)
        except ValueError as error:
            part = stream.read(READ_BYTES) if len(buffer) < LONGEST_RECORD_BYTES else b""
            buffer += decode(part, final=not part)
            if not part:
                if ended or buffer.strip():
                    yield number, None, ("line", f"the array breaks off: {error}")
                return
            continue
        except RecursionError:
            yield number, None, ("line", "JSON nested too deeply; the rest of the array is not read")
            return
        yield (number, *_checked(row))
        buffer, number = buffer[end:], number + 1


def _csv(stream: io.BufferedReader) -> Iterator[NumberedRow]:
    """Rows by their header; the header is line 1 and numbers count records, not the line breaks inside fields."""
    csv.field_size_limit(LONGEST_RECORD_BYTES)
    text = io.TextIOWrapper(stream, "utf-8-sig", "replace", newline="")
    reader = csv.DictReader(text)
    number = 1
    while True:
        number += 1
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield number, None, ("line", f"not CSV: {error}")
            continue
        if None in row:
            yield number, None, ("line", f"{len(row[None])} more fields than the header")
        else:
            yield number, row, None


def _parquet_file(stream: BinaryIO, uri: str):
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(stream)
    except Exception as error:
        raise BadInput(f"not a Parquet file: {error}", where=uri) from None


def _row_groups(uri: str) -> list[Block]:
    with opened(uri) as stream:
        metadata = _parquet_file(stream, uri).metadata
        blocks, line = [], 1
        for group in range(metadata.num_row_groups):
            blocks.append(Block(uri, group, group + 1, line))
            line += metadata.row_group(group).num_rows
        return blocks


def _parquet(stream: BinaryIO, block: Block) -> Iterator[NumberedRow]:
    table = _parquet_file(stream, block.uri)
    groups = None if block.stop is None else list(range(block.start, block.stop))
    number = block.line
    for batch in table.iter_batches(PARQUET_BATCH, row_groups=groups):
        for row in batch.to_pylist():
            yield number, row, None
            number += 1


def _arrow(stream: BinaryIO, uri: str) -> Iterator[NumberedRow]:
    """Arrow streams, which `datasets.save_to_disk` writes, and Arrow files."""
    import pyarrow as pa

    try:
        try:
            reader = pa.ipc.open_stream(stream)
            batches: Iterator = iter(reader)
        except pa.ArrowInvalid:
            stream.seek(0)
            table = pa.ipc.open_file(stream)
            batches = (table.get_batch(index) for index in range(table.num_record_batches))
        number = 1
        for batch in batches:
            for start in range(0, batch.num_rows, PARQUET_BATCH):
                for row in batch.slice(start, PARQUET_BATCH).to_pylist():
                    yield number, row, None
                    number += 1
    except pa.ArrowInvalid as error:
        raise BadInput(f"not an Arrow file: {error}", where=uri) from None
