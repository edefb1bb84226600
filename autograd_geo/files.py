"""Files that appear whole or not at all."""

from __future__ import annotations

import os
import secrets
import stat
from pathlib import Path


def write_atomically(path: str | os.PathLike[str], content: bytes | str) -> None:
    """Write a file (text as UTF-8) so that, killed at any moment, it has its old content or the new.

    A temporary file beside it is written, synced and renamed. As with `open`, links are followed, a new file gets
    the permissions that the umask leaves and an old one keeps its own. What is no regular file, such as a pipe, is
    written to directly. Raises OSError as `open` does, with the old file left as it was.
    """
    data = content.encode() if isinstance(content, str) else content
    target = Path(os.path.realpath(path))
    temporary = target.with_name(f".{secrets.token_hex(8)}.tmp")  # a name of its own: the target's may fill the limit
    try:
        mode = target.stat().st_mode if target.exists() else None
        if mode is not None and not stat.S_ISREG(mode):
            target.write_bytes(data)
            return
        if mode is not None:
            os.close(os.open(target, os.O_WRONLY))  # whoever may not write the file may not replace it
        try:
            with temporary.open("xb") as file:
                if mode is not None:
                    os.chmod(temporary, stat.S_IMODE(mode))
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)
        _sync_folder(target.parent)
    except OSError as error:
        raise type(error)(error.errno, error.strerror or str(error), os.fspath(path)) from None


def _sync_folder(folder: Path) -> None:
    """Make the rename outlast a power cut; Windows has no such call."""
    if os.name != "nt":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
