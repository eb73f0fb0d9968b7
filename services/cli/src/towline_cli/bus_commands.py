"""`towline bus …`, as it is typed. What the commands do is loaded when one runs."""

from __future__ import annotations

from typing import Annotated

import typer

from towline_cli.options import SERVICES, Config, Name

bus_app = typer.Typer(
    name="bus",
    help="Move the log: to a file, from a file, to another bus. Check the Kafka it is on.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
Bus = Annotated[str | None, typer.Option("--bus", help="URL of the bus; the one of the settings by default.")]
Topics = Annotated[list[str] | None, typer.Option("--topic", help="Only this topic; may be given several times.")]


@bus_app.command("export")
def export_bus(
    file: Annotated[str, typer.Argument(help="A new file, packed if it ends in .gz or .xz; - is standard output.")],
    bus: Bus = None,
    config: Config = None,
    name: Name = None,
    topic: Topics = None,
    damaged: Annotated[bool, typer.Option("--damaged", help="Save what a damaged SQLite file still gives.")] = False,
) -> None:
    """Write the log with the groups' offsets to a file.

    Stop the services first, if the log shall move; a SQLite file may be exported while they run, to keep it.
    """
    import asyncio

    from towline_cli.move import bus_told, export_log

    asyncio.run(export_log(bus_told(bus, config, name), file, topic or [], damaged=damaged))


@bus_app.command("import")
def import_bus(
    file: Annotated[str, typer.Argument(help="What `towline bus export` wrote; - is standard input.")],
    bus: Bus = None,
    config: Config = None,
    name: Name = None,
    although_running: Annotated[
        bool, typer.Option("--although-running", help="Take a log that services still wrote to when it was exported.")
    ] = False,
    although_damaged: Annotated[
        bool, typer.Option("--although-damaged", help="Take what was saved from a damaged file.")
    ] = False,
) -> None:
    """Write an exported log to a bus that has none.

    No service may run on it until this has ended well. After an error, run it again: it goes on where it stopped.
    """
    import asyncio

    from towline_cli.move import bus_told, import_log

    to = bus_told(bus, config, name)
    asyncio.run(import_log(to, file, although_running=although_running, although_damaged=although_damaged))


@bus_app.command("copy")
def copy_bus(
    of: Annotated[str, typer.Argument(metavar="FROM", help="URL of the bus to read.")],
    to: Annotated[str, typer.Argument(metavar="TO", help="URL of a bus that has no log yet.")],
    config: Config = None,
    name: Name = None,
    topic: Topics = None,
) -> None:
    """Move the log from one bus to another without a file; the services must be stopped.

    The settings only say how a Kafka is reached.
    """
    import asyncio

    from towline_cli.move import bus_told, copy_log

    asyncio.run(copy_log(bus_told(of, config, name), bus_told(to, config, name), topic or []))


@bus_app.command("check")
def check_bus(bus: Bus = None, config: Config = None, name: Name = None) -> None:
    """Say what is wrong with the topics on a Kafka, and the commands that mend it. Changes nothing.

    Exit code 1 when a service would not start on it.
    """
    import asyncio

    from towline_cli.cluster import check
    from towline_cli.move import bus_told

    raise typer.Exit(1 if asyncio.run(check(bus_told(bus, config, name))) else 0)


@bus_app.command("acls")
def print_acls(
    service: Annotated[list[str] | None, typer.Argument(help="Services; all by default.")] = None,
    principal: Annotated[str, typer.Option(help="Kafka's name of a service; <service> is put in.")] = "User:<service>",
    create: Annotated[bool, typer.Option("--create/--no-create", help="They make missing topics.")] = True,
    bus: Bus = None,
    config: Config = None,
    name: Name = None,
) -> None:
    """Print the permissions that each service needs on a Kafka, as commands."""
    from towline.errors import BadInput
    from towline_cli.cluster import acls
    from towline_cli.move import bus_told

    if unknown := sorted(set(service or ()) - set(SERVICES)):
        raise BadInput(f"there is no service {unknown[0]!r}; expected one of: {', '.join(SERVICES)}")
    acls(bus_told(bus, config, name), service or [], principal, creates=create)
