"""Commands of ``mae-cli`` against the loopback Hub, typed into a process of their own.

The client reads its endpoint, and whether it is offline, when it is imported; so one process is started for all tests,
and takes a command a line. Pauses between attempts are cut short in it.
"""

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]


@dataclass
class Result:
    """What a command left: its exit code, and everything it printed."""

    code: int
    stdout: str
    stderr: str

    @property
    def output(self):
        return self.stdout + self.stderr


class HubClient:
    """``client(arguments, token=…)`` runs one command; ``printed()`` is what went past the commands' own output."""

    def __init__(self, url, home, *, xet=False):
        self.log = home / "stderr.txt"
        known = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
        environment = known | {
            "HF_ENDPOINT": url,
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "0" if xet else "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HOME": str(home / "hf"),
            "XDG_CACHE_HOME": str(home / "cache"),
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
        }
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.hub_client"],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log.open("w"),
            text=True,
        )

    def __call__(self, *arguments, token=None):
        wish = {"arguments": [str(argument) for argument in arguments], "token": token}
        self.process.stdin.write(json.dumps(wish) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        assert answer, self.log.read_text()
        return Result(**json.loads(answer))

    def printed(self):
        return self.log.read_text()

    def close(self):
        self.process.stdin.close()
        self.process.wait(timeout=30)
        self.process.stdout.close()


def _serve():
    from typer.testing import CliRunner

    import cli

    sleep, answers = time.sleep, os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever prints past the runner must not be taken for an answer
    time.sleep = lambda seconds: sleep(min(seconds, 0.02))
    for line in sys.stdin:
        wish = json.loads(line)
        os.environ.pop("HF_TOKEN", None)
        if wish["token"] is not None:
            os.environ["HF_TOKEN"] = wish["token"]
        done = CliRunner().invoke(cli.app, wish["arguments"])
        trace = repr(done.exception) if done.exception and not isinstance(done.exception, SystemExit) else ""
        answer = {"code": done.exit_code, "stdout": done.stdout, "stderr": done.stderr + trace}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    _serve()
