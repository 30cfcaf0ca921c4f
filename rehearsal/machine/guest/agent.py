#!/usr/bin/python3
"""Of edgeq's rehearsal, in the machine: runs commands that come by a serial port, one after the other."""

import json
import subprocess
import sys


def main() -> None:
    """One line is a command, as a JSON list of words; its answer is a line, [status, stdout, stderr]."""
    with open(sys.argv[1], "r+b", buffering=0) as port:
        waiting = b""
        while True:
            waiting += port.read(1 << 16) or b""
            line, end, rest = waiting.partition(b"\n")
            if not end:
                continue
            waiting = rest
            done = subprocess.run(json.loads(line), stdin=subprocess.DEVNULL, capture_output=True, check=False)
            said = [done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")]
            answer = json.dumps(said).encode() + b"\n"
            while answer:
                answer = answer[port.write(answer) :]


if __name__ == "__main__":
    main()
