"""Why the disk refused a write, and what the user can do about it."""

import os
import re
from errno import EACCES, EDQUOT, EFBIG, ENOSPC, EPERM, EROFS


def reason(error: BaseException) -> str:
    """One line saying what went wrong: the system's own message where there is one."""
    number = _errno(error)
    if number is not None:
        return os.strerror(number)
    return (str(error).strip().split("\n")[0] or repr(error))[:200]


def way_out(error: BaseException) -> str:
    """What to do before trying again."""
    number = _errno(error)
    if number in (ENOSPC, EDQUOT):
        return "free some space there, then continue with --resume"
    if number == EFBIG:
        return "raise the limit on file sizes (ulimit -f), then continue with --resume"
    if number in (EACCES, EPERM, EROFS):
        return "make it writable, or choose another --workdir"
    return "fix that, then continue with --resume"


def _errno(error: BaseException) -> int | None:
    """The system's error number; TensorStore hides it in the text of a ValueError."""
    if isinstance(error, OSError):
        return error.errno
    match = re.search(r"os_error_code='(\d+)'", str(error))
    return int(match[1]) if match else None
