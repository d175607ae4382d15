#!/usr/bin/env python3
"""Stand for `kata-runtime direct-volume add|remove`, whose own code no registry serves.

It does what Kata's package does, step by step, so that it can be killed between them; it is held to the
vectors (support.kata_vectors), and where the real command is named, it is too (host/test_kata_runtime.py).
`KATA_ROOT` replaces Kata's root of records. `KATA_DIES`, one of "folder" and "torn", ends it by SIGKILL after
that step; `KATA_PAUSES` are the seconds that it rests after each. Source: runtime/pkg/direct-volume/utils.go.
"""

import argparse
import base64
import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path

ROOT = Path(os.environ.get("KATA_ROOT", "/run/kata-containers/shared/direct-volumes"))


def install(folder, root, **variables):
    """Put the command into a folder, for a root of records; `dies="torn"` sets KATA_DIES."""
    program = Path(folder) / "kata-runtime"
    words = [f"KATA_ROOT={root}", *(f"KATA_{name.upper()}={value}" for name, value in variables.items())]
    # `$0` stays among the words of the process, so that it can be found; another --kata-config wins.
    program.write_text(
        f'#!/bin/sh\n{" ".join(words)} exec {sys.executable} -I {__file__} --kata-config "$0" "$@"\n'
    )
    program.chmod(0o755)
    return program


def after(step):
    """End like a killed process, or rest, where that is asked for."""
    if os.environ.get("KATA_DIES") == step:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(float(os.environ.get("KATA_PAUSES", "0")))


def is_record(text):
    """Whether Go takes the text for a record, as far as the vectors' stories go."""
    record = json.loads(text)
    metadata = record.get("metadata") or {}
    return all(isinstance(value, str) for value in metadata.values())


def add(path, text):
    """Write a record: the folder comes before the check, and the file is written in place."""
    folder = ROOT / base64.urlsafe_b64encode(path.encode()).decode()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    after("folder")
    if not is_record(text):
        raise ValueError("json: cannot unmarshal")
    file = os.open(folder / "mountInfo.json", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    os.write(file, text.encode()[:20])
    after("torn")
    os.write(file, text.encode()[20:])
    os.close(file)


def remove(path):
    """Remove a folder and all in it; with an empty path that is the root."""
    folder = ROOT / base64.urlsafe_b64encode(path.encode()).decode()
    if folder.exists():
        shutil.rmtree(folder)


def main():
    """Be the command."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--kata-config", default=__file__)
    parser.add_argument("command", choices=["direct-volume"])
    parser.add_argument("action", choices=["add", "remove"])
    parser.add_argument("--volume-path", default="")
    parser.add_argument("--mount-info", default="")
    asked = parser.parse_args()
    if not Path(asked.kata_config).exists():
        sys.exit(f"Cannot find usable config file (file {asked.kata_config} does not exist)")
    try:
        if asked.action == "add":
            add(asked.volume_path, asked.mount_info)
        else:
            remove(asked.volume_path)
    except (OSError, ValueError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
