"""Print constraints.txt with the SHA-256 of each file that pip takes here, but for torch, whose build differs by index.

python .ci/lock.py > requirements.lock
"""

import json
import subprocess
import sys
from pathlib import Path

pins = Path(__file__).parents[1] / "constraints.txt"
wanted = "\n".join(pin for pin in pins.read_text().splitlines() if not pin.startswith("torch=="))
command = [
    "install",
    "-q",
    "--dry-run",
    "--ignore-installed",
    "--no-deps",
    "--report",
    "-",
    "-r",
    "/dev/stdin",
]
done = subprocess.run(
    [sys.executable, "-m", "pip", *command], input=wanted, stdout=subprocess.PIPE, text=True, check=True
)
for item in json.loads(done.stdout)["install"]:
    digest = item["download_info"]["archive_info"]["hashes"]["sha256"]
    print(f"{item['metadata']['name']}=={item['metadata']['version']} --hash=sha256:{digest}")
