"""`hf-ncollapse train`, for `accelerate launch recipes/train.py --config RECIPE`."""

import sys

from hf_ncollapse.commands.train import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], prog="train.py"))
