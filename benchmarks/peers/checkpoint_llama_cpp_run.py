"""llama-server on files that were handed over: what it answers about a photograph.

Arguments: the program llama-server, a directory with its files, photograph, question. Prints one JSON object.
"""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any, Final

from benchmarks.process import free_port, serving_process, url_answers

_TOKENS: Final = 48


def main() -> None:
    """Serve them, and ask as any client would."""
    server, files, photograph, question = sys.argv[1:5]
    (vision,) = Path(files).glob("mmproj-*.gguf")
    (language,) = (file for file in Path(files).glob("*.gguf") if file != vision)
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [server, "--model", str(language), "--mmproj", str(vision), "--ctx-size", "512", "--parallel", "1"]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    with serving_process(command, lambda: url_answers(f"{url}/health")):
        said = _asked(url, Path(photograph), question)
    told = subprocess.run([server, "--version"], capture_output=True, text=True, check=True)
    release = (told.stdout + told.stderr).partition("commit ")[2].partition(")")[0]
    answer = {
        "release": release or "unknown",
        "code": "llama-server",
        "said": f"{language.name} and {vision.name}",
        "answer": said["choices"][0]["message"]["content"].strip(),
    }
    print(json.dumps(answer))


def _asked(url: str, photograph: Path, question: str) -> Any:
    address = "data:image/png;base64," + base64.b64encode(photograph.read_bytes()).decode()
    content = [{"type": "image_url", "image_url": {"url": address}}, {"type": "text", "text": question}]
    asked = {"messages": [{"role": "user", "content": content}], "temperature": 0, "max_tokens": _TOKENS}
    request = urllib.request.Request(
        f"{url}/v1/chat/completions", json.dumps(asked).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request) as response:
        return json.loads(response.read())


if __name__ == "__main__":
    main()
