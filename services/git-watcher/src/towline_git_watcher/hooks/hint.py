"""Run by the post-receive hook in the background: posts the updates on standard input to Towline's receiver.

Whatever fails is silent: a hint only makes things faster. It imports little, because it stands before every start
of work.
"""

import os
import sys
import time

try:
    from _hashlib import hmac_digest
    from _socket import AF_INET, AF_INET6, SOCK_STREAM, socket
except ImportError:
    from hmac import digest as hmac_digest  # type: ignore[assignment]
    from socket import AF_INET, AF_INET6, SOCK_STREAM, socket  # type: ignore[assignment]

_SECONDS = 5.0


def main() -> None:
    here = os.path.dirname(os.path.abspath(__file__))  # noqa: PTH100, PTH120 - pathlib costs milliseconds
    with open(here + "/key") as file:  # noqa: PTH123
        key = file.read().strip().encode()
    with open(here + "/receiver") as file:  # noqa: PTH123
        host, port, repo = file.read().strip().split(" ", 2)
    body = f"{time.time_ns()} {os.getpid()}\n{sys.stdin.read()}".encode()
    signature = hmac_digest(key, b"hint\n" + repo.encode() + b"\n" + body, "sha256").hex()
    head = (
        f"POST /hints/plain HTTP/1.1\r\nHost: {host}\r\nX-Towline-Repository: {repo}\r\n"
        f"X-Towline-Signature: sha256={signature}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    link = socket(AF_INET6 if ":" in host else AF_INET, SOCK_STREAM)
    link.settimeout(_SECONDS)
    link.connect((host, int(port)))
    data = head.encode() + body
    while data:
        data = data[link.send(data) :]
    link.recv(64)


if __name__ == "__main__":
    main()
