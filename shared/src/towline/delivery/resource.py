"""What effects call upon: so many at once, and none while its circuit breaker is open.

Rule: whoever waits for a resource holds nothing but a place of that same resource.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import replace

from towline.delivery.retry import OPEN_AFTER, Breaker

DEFAULT_POOL = 4
_SHORTEST_WAIT = 0.05


class Resource:
    def __init__(self, size: int) -> None:
        self._slots = asyncio.Semaphore(size)
        self._breaker = Breaker()
        self._mended = asyncio.Event()

    @property
    def is_away(self) -> bool:
        """Its breaker is not closed."""
        return self._breaker.failures >= OPEN_AFTER

    @property
    def is_as_new(self) -> bool:
        return self._breaker == Breaker()

    @asynccontextmanager
    async def admitted(self) -> AsyncIterator[None]:
        """A place in the pool, once the breaker lets a call through."""
        async with self._slots:
            while not self._breaker.may_call(now := asyncio.get_running_loop().time()):
                self._mended.clear()
                wait = max(_SHORTEST_WAIT, self._breaker.open_until - now)
                with suppress(TimeoutError):
                    async with asyncio.timeout(wait):
                        await self._mended.wait()
            yield

    @contextmanager
    def called(self) -> Iterator[None]:
        """Around one call, which says `answered` or `failed`; a cancelled one says neither and leaves no probe."""
        self._breaker = self._breaker.called()
        try:
            yield
        finally:
            self._breaker = replace(self._breaker, probing=False)

    def answered(self) -> None:
        self._breaker = self._breaker.succeeded()
        self._mended.set()

    def failed(self) -> None:
        self._breaker = self._breaker.failed(asyncio.get_running_loop().time())


class Resources:
    """Made when first named, and forgotten when nobody uses it and its breaker has nothing to remember.

    The pool's size is given by exact name, or by the word before the first space: the kind.
    """

    def __init__(self, pools: Mapping[str, int]) -> None:
        self._pools = pools
        self._made: dict[str, Resource] = {}
        self._users: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._made)

    @contextmanager
    def using(self, name: str) -> Iterator[Resource]:
        if name not in self._made:
            size = self._pools.get(name, self._pools.get(kind_of(name), DEFAULT_POOL))
            self._made[name] = Resource(size)
        resource = self._made[name]
        self._users[name] += 1
        try:
            yield resource
        finally:
            self._users[name] -= 1
            if not self._users[name]:
                del self._users[name]
                if resource.is_as_new:
                    del self._made[name]

    def away(self) -> Counter[str]:
        """Kind → how many of it have a breaker that is not closed."""
        return Counter(kind_of(name) for name, resource in self._made.items() if resource.is_away)


def kind_of(resource: str) -> str:
    """The word before the first space: what the code says; what follows may come from outside."""
    return resource.partition(" ")[0]
