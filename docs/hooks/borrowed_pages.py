"""Pages that the repository keeps elsewhere: the metric's card, the recipes' list, the sweeps and their cards."""

import posixpath
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
_LINK = re.compile(r"(!?)\[([^\]]*)\]\((?!https?:|#|mailto:)([^)\s]+)\)")


def borrowed_files() -> dict[str, Path]:
    """Address on the site -> file in the repository."""
    files = {
        "metric.md": ROOT / "hf_ncollapse/neural_collapse/README.md",
        "recipes.md": ROOT / "recipes/README.md",
        "changelog.md": ROOT / "CHANGELOG.md",
        "gallery/README.md": ROOT / "model_cards/README.md",
    }
    for path in sorted((ROOT / "model_cards").glob("*/*")):
        if path.suffix in (".md", ".png"):
            files[f"gallery/{path.parent.name}/{path.name}"] = path
    return files


def on_files(files, config):
    """Add them to the site."""
    from mkdocs.structure.files import File  # here, because the tests have no mkdocs

    for address, path in borrowed_files().items():
        files.append(File.generated(config, address, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown, page, config, files):
    """Let links to a folder go to its page, and make those that leave the site plain text."""
    if page.file.src_uri not in borrowed_files():
        return markdown

    folder = posixpath.dirname(page.file.src_uri)

    def rewritten(match: re.Match) -> str:
        image, text, target = match.groups()
        for address in (target, f"{target}/README.md"):
            if files.get_file_from_path(posixpath.normpath(posixpath.join(folder, address))):
                return f"{image}[{text}]({address})"
        return text

    return _LINK.sub(rewritten, markdown)
