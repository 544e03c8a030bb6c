# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""Entry point of a package made of this folder."""

import sys

from app import main

if __name__ == "__main__":
    sys.exit(main())
