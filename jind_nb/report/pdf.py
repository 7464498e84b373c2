"""report.pdf: the report's HTML on paper, by WeasyPrint or a Chromium."""

import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from ..core.files import whole_file
from ..runs.folder import Run

CHROMIUMS = ("chromium", "chromium-browser", "google-chrome", "chrome")


def write_pdf(run: Run, html: str) -> str | None:
    """Write report.pdf from the report's HTML: by WeasyPrint, which needs pango, else by a Chromium.

    Returns
    -------
    None, or why there is no PDF, which is no failure.
    """
    html = _without_long_words(html)
    try:
        with whole_file(run.report_pdf) as temporary:
            problem = _by_weasyprint(html, temporary)
            if problem is not None:
                _by_chromium(html, temporary, problem)
    except OSError as error:
        run.report_pdf.unlink(missing_ok=True)  # an earlier one would not match the HTML
        return str(error)
    return None


def _without_long_words(html: str) -> str:
    """Return the HTML with words too long for a line cut: WeasyPrint takes minutes for a name of thousands of letters."""

    def cut(word: re.Match[str]) -> str:
        return f"{word[0][:100]}…"

    return re.sub(r">[^<]{200,}<", lambda text: re.sub(r"[^\s<>&;]{200,}", cut, text[0]), html)


def _by_weasyprint(html: str, path: Path) -> str | None:
    """Print HTML as a PDF; return why not, where the system lacks a library."""
    try:
        import weasyprint  # needs pango, a library of the system
    except OSError as error:
        return f"WeasyPrint cannot load the system's pango ({str(error).splitlines()[0]})"
    # Data addresses only: a report makes no request, even where a name in the data looks like an address.
    inline = weasyprint.urls.URLFetcher(allowed_protocols=["data"])
    weasyprint.HTML(string=html, url_fetcher=inline).write_pdf(path, pdf_tags=True)
    return None


def _by_chromium(html: str, path: Path, before: str) -> None:
    """Print HTML as a PDF; raise OSError, with what went wrong `before`, where that fails too."""
    browser = next(filter(None, map(shutil.which, CHROMIUMS)), None)
    if browser is None:
        advice = "install either (Debian: apt-get install libpango-1.0-0 libpangoft2-1.0-0)"
        raise OSError(f"{before}, and there is no Chromium; {advice}")
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "report.html"
        page.write_text(html, encoding="utf-8")
        command = [
            browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
            "--no-pdf-header-footer", f"--user-data-dir={folder}/profile", f"--print-to-pdf={folder}/report.pdf",
            page.as_uri(),
        ]  # fmt: skip
        printed = subprocess.run(command, capture_output=True, timeout=300, check=False)
        made = Path(folder) / "report.pdf"
        if not made.exists():
            raise OSError(f"{before}, and {browser} failed: {printed.stderr.decode(errors='replace')[-200:]}")
        shutil.copyfile(made, path)
