"""What holds the project together: who imports whom, what is packaged, and documents that are true."""

import ast
import re
import tomllib
from pathlib import Path

import pytest

from rfserve.export import table
from rfserve.export.spec import MODELS
from rfserve.loadtest import performance

ROOT = Path(__file__).parents[1]
FOLDERS = {"rfserve.export": "export", "rfserve.clients": "clients", "rfserve.loadtest": "loadtest"}
FOLDERS |= {"rfserve.release": "deploy/release", "rfserve.server": "deploy/server"}
ALLOWED = {
    "export/spec": ("rfserve.export.spec",),
    "export": ("rfserve.export",),
    "clients": ("rfserve.clients", "rfserve.export.spec"),
    "loadtest": ("rfserve.loadtest", "rfserve.clients", "rfserve.export.spec"),
    # Releases versions to servers, so it needs what makes them and checks them; the server itself installs without.
    "deploy/release": ("rfserve.release", "rfserve.export"),
    "deploy/server": ("rfserve.server",),
}
# It measures the networks themselves on a machine without a server, and nothing of the load test imports it.
EXCEPTIONS = {"loadtest/gpu_check.py": ("rfserve.export",)}


def imports(file: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found |= {f"{node.module}.{a.name}" for a in node.names if node.module.startswith("rfserve")}
        elif isinstance(node, ast.Import):
            found |= {a.name for a in node.names}
    return found - {"rfserve.export"}


@pytest.mark.parametrize("folder", ALLOWED)
def test_packages_import_only_what_they_may(folder):
    for file in (ROOT / folder).rglob("*.py"):
        ours = {m for m in imports(file) if m.startswith("rfserve")}
        allowed = ALLOWED[folder] + EXCEPTIONS.get(str(file.relative_to(ROOT)), ())
        assert all(m.startswith(allowed) for m in ours), f"{file}: {ours}"


def test_nothing_imports_what_is_an_exception():
    modules = tuple(f"rfserve.{name.removesuffix('.py').replace('/', '.')}" for name in EXCEPTIONS)
    for folder in ALLOWED:
        for file in (ROOT / folder).rglob("*.py"):
            assert not {m for m in imports(file) if m.startswith(modules)}, file


def test_spec_needs_numpy_and_the_standard_library_only():
    for file in (ROOT / "export" / "spec").rglob("*.py"):
        roots = {m.split(".")[0] for m in imports(file)}
        assert roots <= {"rfserve", "numpy", "collections", "dataclasses", "enum", "typing"}, f"{file}: {roots}"


def test_every_package_is_listed_for_the_wheel():
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    present = {}
    for name, folder in FOLDERS.items():
        for init in (ROOT / folder).rglob("__init__.py"):
            inner = init.parent.relative_to(ROOT / folder).parts
            present[".".join([name, *inner])] = str(init.parent.relative_to(ROOT))
    assert set(listed["packages"]) == set(present)
    assert listed["package-dir"] == present


def test_readme_has_the_tables_of_the_specs():
    readme = (ROOT / "README.md").read_text()
    assert table.between_markers(readme) == readme, "run `rfserve-export table --write README.md`"


def test_readme_has_the_table_of_the_kept_results():
    readme = (ROOT / "README.md").read_text()
    results = performance.results_in(ROOT / "loadtest" / "results")
    assert performance.between_markers(readme, results) == readme, "run `rfserve-loadtest table --write README.md`"


def test_every_model_has_a_locust_user():
    text = (ROOT / "loadtest" / "locustfile.py").read_text()
    users = dict(re.findall(r"class (\w+)User\(ModelUser\):.*?model = \"(\w+)\"", text, flags=re.DOTALL))
    assert users == {"".join(p.capitalize() for p in name.split("_")): name for name in MODELS}


def test_nothing_names_a_place_of_one_machine_or_a_package_registry(tracked):
    forbidden = re.compile(
        "|".join(["pypi" + r"\.org", "python" + "hosted", "/ho" + "me/", "/wo" + "rk/", "/ro" + "ot/"])
    )
    for name in tracked:
        if not name.endswith((".npz", ".onnx")):
            assert not forbidden.search((ROOT / name).read_text(errors="ignore")), name
