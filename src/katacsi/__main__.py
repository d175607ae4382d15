"""The command `katacsi`, also as `python -m katacsi`."""

from __future__ import annotations

from katacsi.cli.root import katacsi


def main() -> None:
    """Run the command line; ends the process with the command's exit code."""
    katacsi(prog_name="katacsi")


if __name__ == "__main__":
    main()
