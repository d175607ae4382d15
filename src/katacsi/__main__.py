"""The command `katacsi`, also as `python -m katacsi`."""

from __future__ import annotations

import gc

from katacsi.cli.root import katacsi


def main() -> None:
    """Run the command line; ends the process with the command's exit code."""
    # What a command imports stays, and to look through it again and again for garbage takes a tenth of a
    # start. `app.serve` turns the collector on; every other command ends soon.
    gc.disable()
    katacsi(prog_name="katacsi")


if __name__ == "__main__":
    main()
