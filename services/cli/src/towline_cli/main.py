"""The command line. Each command imports what it needs when it runs, so that `--help` and `status` answer at once."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from towline_cli.dead_commands import dead_app

app = typer.Typer(
    name="towline",
    help="Towline carries a commit from a push to healthy pods.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

Config = Annotated[Path | None, typer.Option("--config", "-c", help="Settings file; see docs/settings.md.")]
Name = Annotated[str | None, typer.Option("--name", "-n", help="Instance, as `towline up` named it.")]
SERVICES = ("git-watcher", "ci-runner", "image-builder", "reconciler", "notifier")


@app.command()
def up(
    config: Config = None,
    name: Annotated[str, typer.Option("--name", "-n", help="Name of the instance.")] = "local",
    bus: Annotated[str | None, typer.Option(help="sqlite:///<path> or kafka://<host:port>; SQLite by default.")] = None,
    registry: Annotated[str | None, typer.Option(help="host:port of a registry; one is started by default.")] = None,
    kubeconfig: Annotated[Path | None, typer.Option(help="Cluster to deploy to; none by default.")] = None,
) -> None:
    """Run all five services in one process.

    Without --config this makes an instance: a bare Git repository with hooks, a local registry, a settings file.
    """
    from towline_cli.up import up as start

    start(config=config, name=name, bus=bus, registry=registry, cluster=kubeconfig)


@app.command()
def run(
    service: Annotated[str, typer.Argument(help=f"One of: {', '.join(SERVICES)}.")],
    config: Config = None,
    name: Name = None,
    member: Annotated[str | None, typer.Option(help="Name among the processes of this service; see `member`.")] = None,
) -> None:
    """Run one service, as in production."""
    import asyncio
    import os

    from towline.errors import BadInput
    from towline_cli.instances import config_of

    if service not in SERVICES:
        raise BadInput(f"there is no service {service!r}; expected one of: {', '.join(SERVICES)}")
    from towline_cli.compose import run as run_services
    from towline_cli.settings import read

    told = {} if member is None else {"TOWLINE_MEMBER": member}
    asyncio.run(run_services([service], read(config_of(config, name), {**os.environ, **told})))


@app.command()
def status(
    config: Config = None, name: Name = None, json: Annotated[bool, typer.Option(help="For programs.")] = False
) -> None:
    """Say where every change and application stands, and why."""
    from towline_cli.show import status as show

    show(config, name, json=json)


@app.command()
def trace(
    commit: Annotated[str, typer.Argument(help="A commit id (7 digits or more), a change id, or a topic.")],
    config: Config = None,
    name: Name = None,
) -> None:
    """Show the way of one commit, step by step with times."""
    from towline_cli.show import trace as show

    show(commit, config, name)


app.add_typer(dead_app)


@app.command()
def validate(folder: Annotated[Path, typer.Argument(help="A work tree.")] = Path()) -> None:
    """Check a work tree as the server would.

    .towline.yaml, manifests, lint; exit code 1 when something is wrong.
    """
    from towline_cli.validate import validate as check

    raise typer.Exit(check(folder))


@app.command()
def demo(
    name: Annotated[str, typer.Option("--name", help="Name of the instance.")] = "demo",
    bus: Annotated[str, typer.Option(help="sqlite or kafka.")] = "sqlite",
    keep: Annotated[bool, typer.Option(help="Leave everything running at the end.")] = False,
) -> None:
    """Show the main job on real parts.

    A change goes through, bad ones are refused, drift is repaired. Everything is taken away at the end.
    """
    from towline_cli.demo.run import demo as show

    raise typer.Exit(show(name, bus, keep=keep))


@app.command()
def down(
    name: Annotated[list[str] | None, typer.Option("--name", "-n", help="Instances; all by default.")] = None,
) -> None:
    """Stop what runs, remove it, and list it."""
    from towline_cli.down import down as stop

    stop(name or [])


bus_app = typer.Typer(
    help="Move the log: to a file, from a file, to another bus. Check the Kafka it is on.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
app.add_typer(bus_app, name="bus")
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


def main() -> None:
    """The entry point: a person's mistake is one sentence and exit code 2, never a traceback."""
    try:
        app()
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        if not _is_told(error):
            raise
        from towline_cli.view.printable import printable

        for line in f"towline: {error}".splitlines():  # it may quote a stranger's key, or what a broker answered
            typer.echo(printable(line), err=True)
        sys.exit(2)


def _is_told(error: Exception) -> bool:
    """Whether its message is for a person. The lab is not loaded to know: who did not use it did not fail in it."""
    from towline.errors import TowlineError

    lab = sys.modules.get("towline_cli.lab.errors")
    return isinstance(error, TowlineError) or (lab is not None and isinstance(error, lab.LabError))


if __name__ == "__main__":
    main()
