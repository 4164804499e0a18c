"""Nothing is imported before it is asked for, and what is missing is named."""

import importlib
import subprocess
import sys

import pytest

PACKAGES = {
    "accelerate": "accelerate>=1.5",
    "lightning": "lightning>=2.5",
    "skorch": "skorch>=1.1",
    "transformers": "transformers[torch]>=5.0",
}


def test_steelyard_imports_none_of_them():
    code = f"import steelyard, sys; print(sorted(sys.modules.keys() & {set(PACKAGES)!r}))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "[]\n"


@pytest.mark.parametrize("package", PACKAGES)
def test_a_missing_package_is_named_with_how_to_install_it(package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, f"steelyard.integrations.{package}", raising=False)
    with pytest.raises(ModuleNotFoundError) as caught:
        importlib.import_module(f"steelyard.integrations.{package}")
    assert str(caught.value) == (
        f"steelyard.integrations.{package} needs {package}: pip install '{PACKAGES[package]}'"
    )
    assert caught.value.name == package
