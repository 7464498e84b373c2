"""Arrays on disk, for what would not fit into memory beside everything else."""

import os
import tempfile
import threading
import weakref
from pathlib import Path

import numpy as np


class ArraysOnDisk:
    """Arrays in one temporary file, which is gone with them; the system holds as much of it in memory as is free.

    >>> arrays = ArraysOnDisk()
    >>> arrays.copy_of(np.array([[1.0, 2.0]])), arrays.zeros((2,), np.float32)
    (array([[1., 2.]]), array([0., 0.], dtype=float32))
    """

    def __init__(self, folder: Path | None = None) -> None:
        """Make the file in a folder, by default the system's for temporary files."""
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - more arrays are to come
        weakref.finalize(self, self._file.close)  # the arrays have it open by themselves
        self._lock = threading.Lock()

    def copy_of(self, values: np.ndarray) -> np.ndarray:
        """Return a copy of an array that is on disk.

        Raises
        ------
        OSError
            If the disk is full.
        """
        copy = self.zeros(values.shape, values.dtype)
        copy[:] = values
        return copy

    def zeros(self, shape: tuple[int, ...], dtype: np.dtype | type) -> np.ndarray:
        """Return an array of zeros that is on disk; raises as `copy_of`."""
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        if not size:
            return np.zeros(shape, dtype)
        with self._lock:
            start = os.fstat(self._file.fileno()).st_size
            if hasattr(os, "posix_fallocate"):  # or a full disk would kill the process where it first writes there
                os.posix_fallocate(self._file.fileno(), start, size)
            else:
                self._file.truncate(start + size)
        return np.memmap(self._file, dtype, "r+", start, shape).view(np.ndarray)
