"""The end of a command that cannot do what it is asked."""

import sys
from typing import NoReturn


def fail(message: str, code: int = 2) -> NoReturn:
    """Say what is wrong in one line, and end."""
    print(f"headway: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(code)
