"""``python benchmarks/peers/install.py PYTHON``: install what can be had for that interpreter.

What is missing afterwards is printed, and the benchmarks report it as such: it is no failure.
"""

import shutil
import subprocess
import sys
from pathlib import Path

REQUIREMENTS = Path(__file__).parent / "requirements.txt"
SERVER = "@restatedev/restate-server@1.7"
PIP = ("-m", "pip", "install", "--quiet", "--disable-pip-version-check")
NPM = ("--no-audit", "--no-fund", "--ignore-scripts", "--silent")


def main(python: str) -> None:
    """Install, and print what is missing."""
    for missing in (*_packages(python), *_server(python)):
        print(f"not installed: {missing}")


def _packages(python: str) -> list[str]:
    """Install all at once; where that fails, one by one. Return what failed."""
    if _succeeds(python, *PIP, "--requirement", str(REQUIREMENTS)):
        return []
    lines = (line.partition("#")[0].strip() for line in REQUIREMENTS.read_text().splitlines())
    return [line for line in lines if line and not _succeeds(python, *PIP, line)]


def _server(python: str) -> list[str]:
    """Install Restate's server, from its package for Node.js, beside the interpreter's packages."""
    npm = shutil.which("npm")
    if npm is None:
        return [f"{SERVER}, because there is no npm"]
    prefix = subprocess.check_output([python, "-c", "import sys; print(sys.prefix)"], text=True)
    folder = Path(prefix.strip(), "node")
    folder.mkdir(exist_ok=True)
    return [] if _succeeds(npm, "install", *NPM, "--prefix", str(folder), SERVER) else [SERVER]


def _succeeds(*command: str) -> bool:
    return subprocess.run(command, stdout=subprocess.DEVNULL, check=False).returncode == 0


if __name__ == "__main__":
    main(*sys.argv[1:])
