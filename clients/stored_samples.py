"""Samples where they lie: in one piece of a file, in many, or in memory; read only as far as they are asked for."""

import hashlib
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sigmf.sigmffile import dtype_info

from rfserve.clients.errors import RecordingError

DATATYPE = re.compile(r"c(f64|f32|i32|i16|u32|u16)_(le|be)|c(i8|u8)|ci24_le")
HASH_BLOCK_BYTES = 1 << 20


def is_file(path: Path) -> bool:
    """Whether there is such a file; no error for a name that is too long, or in a folder that is closed."""
    return os.path.isfile(path)  # noqa: PTH113 Path.is_file raises for these


def is_folder(path: Path) -> bool:
    """Whether there is such a folder, as in `is_file`."""
    return os.path.isdir(path)  # noqa: PTH112


@dataclass(frozen=True, kw_only=True)
class Encoding:
    """How one part of a complex sample is stored, and which numbers of it stand for 0 and for full scale.

    `dtype` is NumPy's name; "i3" stands for 24 bits, least significant byte first, which NumPy does not have.
    """

    dtype: str
    bytes_per_part: int
    middle: float
    full_scale: float

    @property
    def bytes_per_sample(self) -> int:
        """Both parts."""
        return 2 * self.bytes_per_part

    def decode(self, stored: bytes) -> NDArray[np.complex64]:
        """Complex samples, 1.0 = full scale."""
        if self.dtype == "i3":
            wide = np.zeros((len(stored) // 3, 4), np.uint8)
            # Into the upper bytes of 32 bits: the sign comes with them.
            wide[:, 1:] = np.frombuffer(stored, np.uint8).reshape(-1, 3)
            parts = (wide.view("<i4")[:, 0] >> 8).astype(np.float32)
        else:
            parts = np.frombuffer(stored, self.dtype).astype(np.float32)
        if self.full_scale != 1:
            parts = (parts - np.float32(self.middle)) / np.float32(self.full_scale)
        return parts.view(np.complex64)


# rtl_sdr rests between 127 and 128.
RTL_SDR = Encoding(dtype="u1", bytes_per_part=1, middle=127.5, full_scale=127.5)


def encoding_of(datatype: str) -> Encoding:
    """The encoding of a SigMF datatype that `DATATYPE` matches, or of `ci24_le`, scaled as the sigmf package does."""
    if datatype == "ci24_le":
        return Encoding(dtype="i3", bytes_per_part=3, middle=0.0, full_scale=2.0**23)
    layout = dtype_info(datatype)
    size = int(layout["component_size"])
    full_scale = 2.0 ** (8 * size - 1) if layout["is_fixedpoint"] else 1.0
    # As sigmf does: the middle of an unsigned type is half its range.
    middle = full_scale if layout["is_unsigned"] else 0.0
    dtype = np.dtype(layout["component_dtype"]).str
    return Encoding(dtype=dtype, bytes_per_part=size, middle=middle, full_scale=full_scale)


@dataclass(frozen=True, kw_only=True, eq=False)
class Bytes:
    """A piece of a file, or of what was unpacked from it into `held`."""

    file: Path
    first: int
    size: int
    held: bytes | None = field(default=None, repr=False)

    @classmethod
    def whole(cls, file: Path) -> "Bytes":
        """All of a file; `RecordingError` when there is none."""
        try:
            return cls(file=file, first=0, size=file.stat().st_size)
        except OSError as error:
            raise RecordingError(f"cannot read {file.name}: {error}") from error

    def pieces(self, spans: Sequence[tuple[int, int]]) -> bytes:
        """The spans of (first, size), counted from this piece's own beginning, one after the other."""
        if self.held is not None:
            view = memoryview(self.held)[self.first : self.first + self.size]
            return b"".join(bytes(view[first : first + size]) for first, size in spans)
        found = []
        try:
            with self.file.open("rb") as file:
                for first, size in spans:
                    file.seek(self.first + first)
                    found.append(file.read(size))
        except OSError as error:
            raise RecordingError(f"cannot read {self.file.name}: {error}") from error
        if sum(map(len, found)) != sum(size for _, size in spans):
            raise RecordingError(f"cannot read {self.file.name} to the end of what is needed; is it whole?")
        return b"".join(found)

    def sha512(self) -> str:
        """The SHA-512 of the piece, in hexadecimal digits."""
        digest = hashlib.sha512()
        for first in range(0, self.size, HASH_BLOCK_BYTES):
            digest.update(self.pieces([(first, min(HASH_BLOCK_BYTES, self.size - first))]))
        return digest.hexdigest()


@dataclass(frozen=True, kw_only=True, eq=False)
class StoredSamples:
    """Where the samples of one recording are.

    `blocks` is int64 (blocks, 2): the first byte, counted in `content`, and the number of samples of each piece.
    """

    content: Bytes
    encoding: Encoding
    blocks: NDArray[np.int64] = field(repr=False)

    @classmethod
    def in_one_piece(cls, content: Bytes, encoding: Encoding, first_byte: int, samples: int) -> "StoredSamples":
        """Samples that lie one after the other."""
        return cls(content=content, encoding=encoding, blocks=np.array([[first_byte, samples]], np.int64))

    @property
    def count(self) -> int:
        """How many there are."""
        return int(self.blocks[:, 1].sum())

    def read(self, first: int, count: int) -> NDArray[np.complex64]:
        """Complex (count,), 1.0 = full scale; only these are read. `RecordingError` when the file cannot be."""
        ends = np.cumsum(self.blocks[:, 1])
        spans = []
        for block in range(int(np.searchsorted(ends, first, side="right")), len(ends)):
            begin = int(ends[block] - self.blocks[block, 1])
            if begin >= first + count:
                break
            start, stop = max(first, begin), min(first + count, int(ends[block]))
            byte = int(self.blocks[block, 0]) + (start - begin) * self.encoding.bytes_per_sample
            spans.append((byte, (stop - start) * self.encoding.bytes_per_sample))
        return self.encoding.decode(self.content.pieces(spans))
