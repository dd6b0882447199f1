"""`rfserve-client infer`: raw tensors to outputs, for any model."""

import argparse
import json
import sys
import zlib
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from rfserve.clients.commands import server_options
from rfserve.clients.errors import ClientError


def add_to(commands: Any) -> None:
    """Add the command to the sub-parsers of `rfserve-client`."""
    infer = commands.add_parser("infer", help="send the arrays of an .npz, batch first, to any model")
    infer.add_argument("model")
    infer.add_argument("file", type=Path, metavar="FILE.npz")
    infer.add_argument("--output-file", type=Path, metavar="OUT.npz", help="default: JSON on standard output")
    server_options.add_to(infer)
    infer.set_defaults(run=_infer)


def _infer(options: argparse.Namespace) -> int:
    try:
        # NumPy leaves a file open that it cannot read, if it opened it itself.
        with options.file.open("rb") as file:
            content = np.load(file, allow_pickle=False)
            if not isinstance(content, np.lib.npyio.NpzFile):
                raise ValueError("it holds one array without a name")
            arrays = {name: content[name] for name in content.files}
    except (OSError, ValueError, EOFError, BadZipFile, zlib.error) as error:
        raise ClientError(
            f"cannot read {options.file}: {error}; expected an .npz with one array for each input"
        ) from error
    with server_options.client_of(options) as client:
        answer, version = client.infer(options.model, arrays)
    if options.output_file is not None:
        try:
            with options.output_file.open("wb") as file:
                np.savez(file, **answer)
        except OSError as error:
            raise ClientError(f"cannot write {options.output_file}: {error}") from error
        print(f"{options.model} version {version}: {options.output_file}", file=sys.stderr)
        return 0
    rows = {name: values.tolist() for name, values in answer.items()}
    print(json.dumps({"model": options.model, "version": version, "outputs": rows}))
    return 0
