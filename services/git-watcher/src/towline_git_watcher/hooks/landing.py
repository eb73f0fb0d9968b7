"""Run by the pre-receive hook: exit 0 when the push options permit every update on standard input.

A permit is an HMAC over (ref, old, new) with the key beside this file. Started for Towline's own landings, and by
whoever tries; so it imports little.
"""

import os
import sys

try:
    from _hashlib import compare_digest as same
    from _hashlib import hmac_digest
except ImportError:
    from hmac import compare_digest as same
    from hmac import digest as hmac_digest  # type: ignore[assignment]


def main() -> int:
    here = os.path.dirname(os.path.abspath(__file__))  # noqa: PTH100, PTH120 - pathlib costs milliseconds
    with open(here + "/key") as file:  # noqa: PTH123
        key = file.read().strip().encode()
    count = min(int(os.environ.get("GIT_PUSH_OPTION_COUNT", "0")), 16)
    given = [os.environ.get(f"GIT_PUSH_OPTION_{number}", "") for number in range(count)]
    for line in sys.stdin.read().splitlines():
        old, new, ref = line.split(" ", 2)
        wanted = "towline-landing=" + hmac_digest(key, f"land\n{ref}\n{old}\n{new}".encode(), "sha256").hex()
        found = [same(wanted.encode(), option.encode("utf-8", "surrogateescape")) for option in given]
        if not any(found):
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
