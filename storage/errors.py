"""What storage refuses, and why.

StorageError
├── StoreBusy         another process is building this very artifact
├── ArtifactNotFound  no artifact has that name, or several do
├── CorruptArtifact   a file of a committed artifact is missing or no longer what was committed
├── DiskFull          no space left, or too little for the work about to start
├── RemoteFailed      the remote store does not do what it was asked
├── Unreachable       MLflow does not take what it is told
├── MissingPackage    a source needs a package that is not installed
└── SourceError       an input file is unreadable, not UTF-8, empty, or not the format it claims

Every message is one text (so that errors survive pickling) and ends with what to do about it.
"""


class StorageError(Exception):
    """Base of everything raised on purpose by this package."""


class StoreBusy(StorageError):
    """Names the holder: process id, host and since when."""


class ArtifactNotFound(StorageError):
    """Lists the names that come near, or the ones that compete."""


class CorruptArtifact(StorageError):
    """Names the artifact and its first bad file."""


class DiskFull(StorageError):
    """Names the path that could not grow and the bytes that are free there."""


class RemoteFailed(StorageError):
    """Names the remote store's URL and what its driver said."""


class Unreachable(StorageError):
    """MLflow did not take what it was told."""


class MissingPackage(StorageError):
    """Names the package and the command that installs it."""


class SourceError(StorageError):
    """Names the file and, where known, the line, row or byte."""
