"""`towline dead …`, as it is typed. What the commands do is loaded when one runs."""

from __future__ import annotations

from typing import Annotated

import typer

from towline_cli.options import Config, Name

dead_app = typer.Typer(
    name="dead",
    help="Look at records that could not be handled, take them up again, or give them up.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Ids = Annotated[list[str] | None, typer.Argument(metavar="[ID]...", help="Beginnings of ids; 4 characters or more.")]
Key = Annotated[str | None, typer.Option("--key", "-k", help="A repository, application or channel.")]
Service = Annotated[str | None, typer.Option("--service", "-s", help="Such as notifier.")]
All = Annotated[bool, typer.Option("--all", help="Every open one.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
By = Annotated[str | None, typer.Option("--by", help="Who asks; you on this machine by default.")]


@dead_app.command("list")
def list_letters(
    key: Key = None,
    service: Service = None,
    reason: Annotated[str | None, typer.Option(help="Part of the reason.")] = None,
    newer: Annotated[str | None, typer.Option("--newer-than", metavar="AGE", help="Such as 90s, 10m, 2h, 3d.")] = None,
    older: Annotated[str | None, typer.Option("--older-than", metavar="AGE", help="Such as 90s, 10m, 2h, 3d.")] = None,
    all_: Annotated[bool, typer.Option("--all", help="Also those that were replayed or dropped.")] = False,
    json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
    config: Config = None,
    name: Name = None,
) -> None:
    """Say which records could not be handled, by key, in their order."""
    import asyncio

    from towline_cli.dead import listing
    from towline_cli.instances import config_of
    from towline_cli.view.choose import Wanted

    wanted = Wanted(service, key, reason)
    asyncio.run(listing(config_of(config, name), wanted, resolved=all_, json=json, newer=newer, older=older))


@dead_app.command()
def show(
    id: Annotated[str, typer.Argument(help="Beginning of an id; 4 characters or more.")],
    raw: Annotated[bool, typer.Option("--raw", help="Write the value's bytes as they are, and nothing else.")] = False,
    json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
    config: Config = None,
    name: Name = None,
) -> None:
    """Show one: why, from where, headers, payload, and what can be done."""
    import asyncio

    from towline_cli.dead import showing
    from towline_cli.instances import config_of

    asyncio.run(showing(config_of(config, name), id, json=json, raw=raw))


@dead_app.command()
def replay(
    ids: Ids = None,
    key: Key = None,
    service: Service = None,
    all_: All = False,
    reason: Annotated[str, typer.Option(help="Kept with the letter.")] = "",
    wait: Annotated[float, typer.Option(help="Seconds to wait for what becomes of them.")] = 10.0,
    yes: Yes = False,
    by: By = None,
    config: Config = None,
    name: Name = None,
) -> None:
    """Have records taken up again; with --key also a parked key, which is free afterwards.

    The service does it in its lane, now or when it runs. Exit code 1 when one failed again.
    """
    import asyncio

    from towline_cli.dead import Picked, actor, replaying
    from towline_cli.instances import config_of

    picked = Picked(ids or (), key, service, all_)
    file = config_of(config, name)
    raise typer.Exit(asyncio.run(replaying(file, picked, yes=yes, by=by or actor(), reason=reason, wait=wait)))


@dead_app.command()
def drop(
    reason: Annotated[str, typer.Option(help="Why; kept with the letter.")],
    ids: Ids = None,
    key: Key = None,
    service: Service = None,
    all_: All = False,
    yes: Yes = False,
    by: By = None,
    config: Config = None,
    name: Name = None,
) -> None:
    """Give records up for good: their events are never handled. Their bytes stay for the topic's 30 days."""
    import asyncio

    from towline_cli.dead import Picked, actor, dropping
    from towline_cli.instances import config_of

    picked = Picked(ids or (), key, service, all_)
    raise typer.Exit(asyncio.run(dropping(config_of(config, name), picked, yes=yes, by=by or actor(), reason=reason)))
