"""The order that `needs` give. Pure; also asked by ci-runner when it decides which job may start."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def cycle_in(needs: Mapping[str, Sequence[str]]) -> list[str] | None:
    """One circle as a path that ends where it starts, or None. Needs that name nobody are passed over."""
    done: set[str] = set()
    for start in needs:
        path: list[str] = []
        todo: list[tuple[str, int]] = [(start, 0)]
        while todo:
            name, index = todo.pop()
            if index == 0:
                if name in done:
                    continue
                path.append(name)
            ahead = [need for need in needs[name] if need in needs]
            if index == len(ahead):
                done.add(name)
                path.pop()
                continue
            todo.append((name, index + 1))
            need = ahead[index]
            if need in path:
                return [*path[path.index(need) :], need]
            todo.append((need, 0))
    return None
