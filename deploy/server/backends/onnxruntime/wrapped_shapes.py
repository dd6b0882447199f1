"""Keeps a request whose shape wraps around from ending the model.

Triton 2.51 compares a tensor's bytes with the product of its shape in 64 bits, which wraps: 2 x (16384 + 2^61) floats
"are" 131,072 bytes. Its stub makes the array outside of any try, so NumPy's refusal ("array is too big") would end the
process, and the model with it until it is loaded again. Here the stub gets an empty array instead, whose shape the
model then refuses like any other.

The stub reaches NumPy through the table of functions that NumPy offers to C code, and copies it when it meets its first
tensor. Until then it finds a table of ours with that one function replaced; everything else here keeps NumPy's own.

This costs a request of five inputs, for which the stub makes 19 arrays, 0.2 ms.
"""

import ctypes
import math
from typing import Any

from numpy.core import multiarray

TABLE = "_ARRAY_API"
# From NumPy 1.26's __multiarray_api.h: PyArray_NewFromDescr, and how many entries there are.
NEW_FROM_DESCR = 94
ENTRIES = 307
# Of the largest element, 8 bytes, still below 2^63.
LARGEST_ELEMENTS = 2**59

_NewFromDescr = ctypes.PYFUNCTYPE(
    ctypes.py_object,
    ctypes.c_void_p,  # type
    ctypes.c_void_p,  # dtype
    ctypes.c_int,  # rank
    ctypes.POINTER(ctypes.c_ssize_t),  # shape
    ctypes.c_void_p,  # strides
    ctypes.c_void_p,  # data
    ctypes.c_int,  # flags
    ctypes.c_void_p,  # base
)


class Guard:
    """Stands between the stub and NumPy from `install` on; `withdraw` once the stub has its copy of the table."""

    def __init__(self) -> None:
        self._capsule = getattr(multiarray, TABLE)
        get_pointer = ctypes.pythonapi.PyCapsule_GetPointer
        get_pointer.restype, get_pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
        table = ctypes.cast(get_pointer(self._capsule, None), ctypes.POINTER(ctypes.c_void_p))
        self._original = _NewFromDescr(table[NEW_FROM_DESCR] or 0)
        self._function = _NewFromDescr(self._new)
        self._table = (ctypes.c_void_p * ENTRIES)(*table[:ENTRIES])
        self._table[NEW_FROM_DESCR] = ctypes.cast(self._function, ctypes.c_void_p)

    def install(self) -> None:
        """Let who looks NumPy's table up find ours."""
        new = ctypes.pythonapi.PyCapsule_New
        new.restype, new.argtypes = ctypes.py_object, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
        setattr(multiarray, TABLE, new(ctypes.addressof(self._table), None, None))

    def withdraw(self) -> None:
        """Let them find NumPy's again."""
        setattr(multiarray, TABLE, self._capsule)

    def _new(self, kind: int, dtype: int, rank: int, shape: Any, *rest: int) -> Any:
        # An exception has no way out of here. NumPy leaves zeros out when it looks for a size that is too big.
        sizes = shape[:rank]
        if min(sizes, default=0) >= 0 and math.prod(filter(None, sizes)) <= LARGEST_ELEMENTS:
            return self._original(kind, dtype, rank, shape, *rest)
        return self._original(kind, dtype, rank, (ctypes.c_ssize_t * rank)(), None, None, 0, None)
