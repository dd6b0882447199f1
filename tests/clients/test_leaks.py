"""The short form of `tests/benchmarks/client_leaks.py`."""

import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).parents[1] / "benchmarks" / "client_leaks.py"


@pytest.mark.server
def test_client_leaks_nothing_over_2000_calls(server):
    command = [sys.executable, str(BENCHMARK), "--calls", "2000", "--url", server.grpc_url]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "client: open files that are left" in run.stdout
