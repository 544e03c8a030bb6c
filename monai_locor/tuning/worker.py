# Copyright (c) The monai_locor developers
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#     http://www.apache.org/licenses/LICENSE-2.0
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.

"""``python -m monai_locor.tuning.worker``: registers what it is told on stdin, and answers on stdout, one JSON line each."""

from __future__ import annotations

import json
import os
import sys


def main() -> int:
    """Until stdin ends."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # nothing else may reach the answers
    import torch

    from .runs import READY, Job, execute

    if len(sys.argv) > 1:
        torch.set_num_threads(int(sys.argv[1]))
    print(READY, file=answers, flush=True)
    for line in sys.stdin:
        print(json.dumps(execute(Job(**json.loads(line))).to_dict()), file=answers, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
