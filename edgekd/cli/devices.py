"""`edgekd devices`."""

from __future__ import annotations

import click


@click.group("devices")
def command() -> None:
    """List the devices that models can be measured on."""


@command.command("list")
def list_devices() -> None:
    """Show every known device in a line."""
    from edgekd.cli import ui
    from edgekd.devices import list_profiles

    rows = [(profile.name, profile.driver, profile.target, profile.description) for profile in list_profiles()]
    ui.table("Devices", ("name", "driver", "target", "what it is"), rows)


@command.command("show")
@click.argument("name")
def show(name: str) -> None:
    """Show one device's profile."""
    from edgekd.cli import ui
    from edgekd.devices import load_profile

    ui.facts(load_profile(name).model_dump(mode="json"))


@command.command("probe")
@click.argument("name")
def probe(name: str) -> None:
    """Ask a device what it is and in which condition."""
    from dataclasses import asdict

    from edgekd.cli import ui
    from edgekd.devices import load_profile
    from edgekd.drivers import open_driver

    with open_driver(load_profile(name)) as driver:
        ui.facts(asdict(driver.probe()))


@command.command("prepare")
@click.argument("name")
def prepare(name: str) -> None:
    """Bring to a device what later runs need, and keep it there."""
    from edgekd.cli import ui
    from edgekd.devices import load_profile
    from edgekd.drivers import open_driver

    profile = load_profile(name)
    ui.progress().note(f"prepare {name} ...")
    with open_driver(profile) as driver:
        click.echo(driver.install())
