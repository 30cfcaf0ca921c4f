#!/usr/bin/python3
"""Of edgeq's rehearsal, in the machine: runs commands that come by a serial port, one after the other."""

import json
import subprocess
import sys


def said(words: list[str]) -> list[object]:
    """[status, stdout, stderr] of a command; the shell's 127 where there is none of that name."""
    try:
        done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    except OSError as error:
        return [127, "", str(error)]
    return [done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")]


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
            answer = json.dumps(said(json.loads(line))).encode() + b"\n"
            while answer:
                answer = answer[port.write(answer) :]


if __name__ == "__main__":
    main()
