"""Makes the pictures in docs/labeling.md from real images: labeling_page.jpg, labeling_grid.jpg, labeling_phone.jpg.

Usage: labeling_screenshots.py [--data_dir DIR] [--dataset_name NAME] [--n N]

The training images of a data set become a folder of unlabeled images. A simulated annotator labels N of them, then a
headless Chromium opens the page.
"""

import argparse
import random
import shutil
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import Page, sync_playwright
from simulated_annotator import Client, annotate, unlabeled_folder

from images.listing import folder_of

DOCS = Path(__file__).parent.parent / "docs"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def save(page: Page, name: str) -> None:
    """Save what the page shows, once its pictures are there."""
    page.wait_for_load_state("networkidle")
    page.wait_for_timeout(1500)
    page.screenshot(path=DOCS / name, type="jpeg", quality=80)


def main() -> None:
    """Label, and take the pictures."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--data_dir", type=Path, default=DOCS.parent / "DATA")
    p.add_argument("--dataset_name", default="seedlings")
    p.add_argument("--n", type=int, default=240)
    flags = p.parse_args()
    images = folder_of(flags.dataset_name, flags.data_dir)
    if images is None:
        sys.exit(f"{flags.data_dir} has no {flags.dataset_name}")
    with tempfile.TemporaryDirectory() as temporary:
        project = Path(temporary, "DATA", flags.dataset_name)
        truth, classes = unlabeled_folder(images, project)
        settings = ["--features_size", "160", "--target", "0.8", "--annotator", "anna"]
        client = Client([str(project), "--classes", *classes, *settings], Path(temporary))
        annotate(client, truth, classes, flags.n, 0.0, random.Random(1))
        with sync_playwright() as playwright:
            path = next(filter(None, map(shutil.which, BROWSERS)))
            browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
            page = browser.new_page(viewport={"width": 1280, "height": 860})
            page.goto(client.url)
            save(page, "labeling_page.jpg")
            page.keyboard.press("g")
            save(page, "labeling_grid.jpg")
            page.keyboard.press("g")
            page.set_viewport_size({"width": 390, "height": 844})
            save(page, "labeling_phone.jpg")
            browser.close()
        client.close()


if __name__ == "__main__":
    main()
