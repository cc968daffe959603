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
    from edgekd.drivers import device_state

    rows = [
        (profile.name, profile.driver, profile.target, device_state(profile), profile.description)
        for profile in list_profiles()
    ]
    ui.table("Devices", ("name", "driver", "target", "state", "what it is"), rows)


@command.command("show")
@click.argument("name")
def show(name: str) -> None:
    """Show one device's profile."""
    from edgekd.cli import ui
    from edgekd.devices import load_profile

    shown: dict[str, object] = {}
    for key, value in load_profile(name).model_dump(mode="json", exclude_none=True).items():
        inner = {f"{key}.{part}": found for part, found in value.items()} if isinstance(value, dict) else {key: value}
        shown |= inner
    ui.facts({key: ", ".join(map(str, value)) if isinstance(value, list) else value for key, value in shown.items()})


@command.command("probe")
@click.argument("name")
def probe(name: str) -> None:
    """Ask a device what it is and in which condition."""
    from dataclasses import asdict

    from edgekd.cli import ui
    from edgekd.devices import load_profile
    from edgekd.drivers import open_driver
    from edgekd.text import fact_text

    with open_driver(load_profile(name)) as driver:
        found = asdict(driver.probe())
    temperatures, found["processes"] = found.pop("temperatures_c"), len(found["processes"]) or None
    throttling = found["throttling"]
    found["throttling"] = throttling["now"] if throttling and (throttling["now"] or throttling["sensed"]) else None
    found |= {key: found[key] or None for key in ("cores", "flags", "frequencies_mhz")}
    found |= {f"temperature {zone}": f"{degrees:.1f} °C" for zone, degrees in temperatures.items()}
    ui.facts({key: fact_text(value) for key, value in found.items()})


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
