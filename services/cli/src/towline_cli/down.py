"""`towline down`: stops instances, and takes away what nobody keeps work in."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from towline.errors import BadInput
from towline_cli import instances, lab
from towline_cli.local import LocalInstance


def down(wanted: Sequence[str]) -> None:
    """Prints each thing that went. Without names: stops all; repositories that `towline up` made stay."""
    known = {*instances.names(), *lab.names()}
    for name in wanted:
        if name not in known:
            raise BadInput(f"there is no instance {name!r}; there are: {', '.join(sorted(known)) or 'none'}")
    gone: list[str] = []
    kept: list[LocalInstance] = []
    for name in wanted or sorted(known):
        gone += [f"{name}: {thing}" for thing in _end(name, kept, is_named=bool(wanted))]
    for line in gone:
        sys.stdout.write(f"removed {line}\n")
    for instance in kept:
        sys.stdout.write(
            f"kept {instance.name}: {instance.folder} with its repository; "
            f"`towline down --name {instance.name}` removes it too\n"
        )
    if not gone:
        sys.stdout.write("nothing was running\n")


def _end(name: str, kept: list[LocalInstance], *, is_named: bool) -> list[str]:
    """Services before the parts they use."""
    instance = LocalInstance(name)
    if instance.exists() and not (is_named or instance.is_disposable):
        kept.append(instance)
        done = instance.stop()
    else:
        done = instance.remove()
    return done + lab.Instance(name).remove()
