"""The command line. Each command imports what it needs when it runs, so that `--help` and `status` answer at once."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from towline_cli.bus_commands import bus_app
from towline_cli.dead_commands import dead_app
from towline_cli.options import SERVICES, Config, Name

app = typer.Typer(
    name="towline",
    help="Towline carries a commit from a push to healthy pods.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


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


app.add_typer(bus_app)


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
