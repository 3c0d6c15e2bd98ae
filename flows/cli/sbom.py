"""sbom: the bill of materials of this environment, the licences in it, and what is known against its packages."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from flows.cli.stack import JsonOption

REPOSITORY = Path(__file__).resolve().parents[2]
LOCKS = [REPOSITORY / "requirements.lock", REPOSITORY / "infra" / "install" / "uv.lock"]
ROOT_PACKAGE = "ringflow"

OutOption = Annotated[Path | None, typer.Option("--out", metavar="FILE", help="Write CycloneDX JSON there.")]
LockOption = Annotated[
    list[Path] | None, typer.Option("--lock", metavar="FILE", help="Requirements with hashes; repeatable.")
]
AdvisoriesOption = Annotated[
    Path | None,
    typer.Option("--advisories", metavar="PATH", help="OSV records of PyPI, a zip or a folder: list what is affected."),
]


def register(app: typer.Typer) -> None:
    @app.command()
    def sbom(
        out: OutOption = None,
        lock: LockOption = None,
        advisories: AdvisoriesOption = None,
        json_: JsonOption = False,
    ) -> None:
        """Write what is installed here as CycloneDX JSON, and print the licences.

        With --advisories exit code 1 says that a package is affected.
        """
        from dataclasses import asdict

        from flows.cli.output import print_json
        from infra.bom.advisories import audit
        from infra.bom.cyclonedx import as_text, document
        from infra.bom.installed import packages, read_locks
        from infra.bom.report import report

        found = packages(read_locks(lock or LOCKS))
        if out is not None:
            _write(out, as_text(document(found, ROOT_PACKAGE)))
        told = report(found, ROOT_PACKAGE)
        checked = None if advisories is None else audit(found, advisories)
        if json_:
            print_json(told | ({} if checked is None else {"advisories": asdict(checked)}))
        else:
            _print(told, out)
            if checked is not None:
                _print_advisories(checked)
        if checked is not None and checked.found:
            raise typer.Exit(1)


def _write(path: Path, text: str) -> None:
    from components.failures import BadInput

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise BadInput(f"cannot be written: {error.strerror}", where=f"--out {path}") from None


def _print(told: dict, out: Path | None) -> None:
    from flows.cli.output import print_table

    print_table(["licence", "packages"], list(told["licences"].items()), right=["packages"])
    for title, note in (
        ("copyleft", "may ask for something when shipped"),
        ("unclear", "in the package's own words"),
        ("unknown", "declare none; licence files in brackets"),
        ("unlocked", "not in the lock with this version"),
    ):
        entries = told[title]
        print(f"\n{title}: {len(entries)}{f' ({note})' if entries else ''}")
        for name in entries:
            value = entries[name] if isinstance(entries, dict) else ""
            shown = f"[{', '.join(value)}]" if isinstance(value, list) else value
            print(f"  {name}  {shown}".rstrip())
    print(f"\n{told['packages']} packages{f', written to {out}' if out else ''}")


def _print_advisories(checked: Any) -> None:
    asked = f"{checked.records:,} records asked, the newest of {checked.newest[:10]}"
    print(f"\nadvisories: {len(checked.found)} ({asked})")
    for one in checked.found:
        names = ", ".join((one.id, *one.aliases))
        print(f"  {one.package} {one.version}  {names}; fixed in {' and '.join(one.fixed) or 'no version'}")
        print(f"    {one.summary[:110]}")
