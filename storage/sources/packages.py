"""What pip packages carry or bring: data files checked by SHA-256, never downloaded, and optional modules."""

import hashlib
from collections.abc import Sequence
from importlib import import_module, metadata
from pathlib import Path
from types import ModuleType

from storage.errors import MissingPackage, SourceError


def package_files(package: str, relative_paths: Sequence[str], sha256: str) -> list[Path]:
    """Return the installed files, if the SHA-256 of their contents joined in this order is the expected one.

    Raises MissingPackage when the package is not installed, SourceError when a file is absent or differs.
    """
    try:
        distribution = metadata.distribution(package)
    except metadata.PackageNotFoundError:
        raise _missing(package) from None
    files = [Path(str(distribution.locate_file(path))) for path in relative_paths]
    found = hashlib.sha256()
    for relative_path, file in zip(relative_paths, files, strict=True):
        if not file.is_file():
            raise SourceError(f"{package} {distribution.version} carries no {relative_path}: {_REINSTALL}")
        found.update(file.read_bytes())
    if found.hexdigest() != sha256:
        name = relative_paths[0] if len(files) == 1 else f"the {len(files)} files from {relative_paths[0]} on"
        raise SourceError(
            f"{package} {distribution.version}: the SHA-256 of {name} is {found.hexdigest()}, "
            f"expected {sha256}: {_REINSTALL}"
        )
    return files


def package_file(package: str, relative_path: str, sha256: str) -> Path:
    """Return one installed file of a package, its SHA-256 verified. Raises as `package_files` does."""
    return package_files(package, [relative_path], sha256)[0]


def package_module(package: str, name: str, extra: str = "starter") -> ModuleType:
    """Import a module of an optional package, when it is needed and not before. Raises MissingPackage."""
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if not f"{name}.".startswith(f"{error.name}."):
            raise
        raise _missing(package, extra) from None


_INSTALL = 'pip install "llama2-pipeline[starter]"'
_REINSTALL = f"another version, or a damaged installation; put the expected one back with: {_INSTALL}"


def _missing(package: str, extra: str = "starter") -> MissingPackage:
    return MissingPackage(
        f"this source needs the package {package}, which is not installed: "
        f'pip install "llama2-pipeline[{extra}]"'
    )
