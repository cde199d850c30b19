"""Writes `docs/images/`: one run of the demo in a terminal, a notebook, a file and the web pages.

    pip install -e '.[dev]' && python docs/make_screenshots.py

It runs the demo on a server of its own, so the pictures show nothing of yours. It needs Chromium.
Run it again when a view looks different.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from io import StringIO
from pathlib import Path
from urllib.parse import quote

IMAGES = Path(__file__).with_name("images")
COLUMNS = 92  # of the terminal
NOTEBOOK = (
    "import agentrun\n\ndatabase = agentrun.connect()\nagentrun.runs(limit=5)",
    "agentrun.transcript({key!r})",
)
# The pages of the documentation load nothing from another host, so its fonts are left out.
FONT_FACE = re.compile(r"@font-face \{.*?\}", re.DOTALL)


def make_screenshots() -> None:
    """Run the demo once, and show that run everywhere."""
    IMAGES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)  # Postgres may run as another user
        os.environ |= {"AGENTRUN_HOME": str(folder / "home"), "AGENTRUN_DATABASE_URL": ""}
        try:
            key = json.loads(run_command("demo", "--json").splitlines()[-1])["key"]
            draw_terminal(key)
            run_command("export", key, "-o", str(folder / "run.html"))
            photograph(f"file://{folder}/run.html", "file.png", 1300)
            write_notebook(folder / "notebook.html", key)
            photograph(f"file://{folder}/notebook.html", "notebook.png", 1300)
            asyncio.run(photograph_pages(key))
        finally:
            run_command("doctor", "--stop")


def run_command(*words: str) -> str:
    """What `agentrun` with these words prints."""
    command = [sys.executable, "-c", "from agentrun.cli import app; app()", *words]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout


def draw_terminal(key: str) -> None:
    """`agentrun show`, as a drawing of a terminal."""
    from rich.console import Console
    from rich.text import Text

    size = {"COLUMNS": str(COLUMNS), "FORCE_COLOR": "1", "TERM": "xterm-256color"}
    os.environ |= size
    shown = run_command("show", key)
    for variable in size:
        del os.environ[variable]
    console = Console(record=True, width=COLUMNS, file=StringIO())
    console.print(Text.from_ansi(shown))
    drawing = console.export_svg(title=f"agentrun show {key}")
    (IMAGES / "terminal.svg").write_text(FONT_FACE.sub("", drawing), "utf-8")


def write_notebook(page: Path, key: str) -> None:
    """A notebook that was executed, as Jupyter shows it."""
    import nbclient
    import nbconvert
    import nbformat.v4

    notebook = nbformat.v4.new_notebook()  # type: ignore[no-untyped-call]
    for cell in NOTEBOOK:
        source = cell.format(key=key)
        notebook.cells.append(nbformat.v4.new_code_cell(source))  # type: ignore[no-untyped-call]
    nbclient.NotebookClient(notebook).execute()
    exporter = nbconvert.HTMLExporter(template_name="lab")  # type: ignore[no-untyped-call]
    html, _ = exporter.from_notebook_node(notebook)
    page.write_text(html, "utf-8")


async def photograph_pages(key: str) -> None:
    """The list of runs and the page of the run, from a server that lets everybody read."""
    import uvicorn

    import agentrun

    pages = agentrun.ui(authorize=lambda _request: agentrun.Person("ana"))
    server = uvicorn.Server(uvicorn.Config(pages, port=0, log_level="warning"))
    with agentrun.connect():
        serving = asyncio.create_task(server.serve())
        while not server.started:
            await asyncio.sleep(0.05)
        port = server.servers[0].sockets[0].getsockname()[1]
        here = f"http://127.0.0.1:{port}"
        await asyncio.to_thread(photograph, f"{here}/", "runs.png", 560)
        await asyncio.to_thread(photograph, f"{here}/run?key={quote(key)}", "run.png", 1300)
        server.should_exit = True
        await serving


def photograph(url: str, name: str, height: int) -> None:
    """Take a picture of the top of a page."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or "chromium"
    with tempfile.TemporaryDirectory() as profile:
        command = (
            chromium, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
            "--no-first-run", f"--user-data-dir={profile}", f"--window-size=1000,{height}",
            "--virtual-time-budget=4000", f"--screenshot={IMAGES / name}", url,
        )  # fmt: skip
        subprocess.run(command, check=True, stderr=subprocess.DEVNULL)


if __name__ == "__main__":
    make_screenshots()
