"""Pages in a real browser, without a window."""

import shutil
import subprocess

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
NO_BROWSER = "needs chromium"
LOOK_INSIDE = ("--disable-web-security", "--allow-file-access-from-files")  # of the page, from the one around it


def browse(address: str, profile, *options: str) -> tuple[str, str]:
    """The page as it is after its scripts, and what the browser logged."""
    done = subprocess.run(
        [
            CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=4000", "--dump-dom",
            "--enable-logging=stderr", f"--user-data-dir={profile}", *options, address,
        ],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    return done.stdout, "\n".join(line for line in done.stderr.splitlines() if "CONSOLE" in line)
