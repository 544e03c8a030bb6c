# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""A Python script that registers a cohort on SLURM with dask-jobqueue."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from pprint import pformat
from string import Template
from typing import Any

from .._version import __version__

__all__ = ["slurm_script"]

LINE_CHARACTERS = 120
TEMPLATE = Template('''\
#!/usr/bin/env python3
"""Register a cohort on SLURM, one pair at a time in each job. Written by monai-locor $version.

Edit the settings of the jobs, then run this script where jobs can be submitted, for example in a terminal that stays open
(tmux): it starts a Dask scheduler, submits the jobs and shows the progress. Run it again to continue. It needs
pip install 'monai-locor[cohort]'; jobs use the same Python environment and see the same folders.
"""

import logging

from dask_jobqueue import SLURMCluster

from monai_locor.cohort import read_pairs, run_cohort

JOBS = $jobs  # SLURM jobs that run at the same time
CORES = 4  # CPU cores of a job
GPUS = 1  # GPUs of a job; 0 for the CPU
MEMORY = "16GB"  # of a job
WALLTIME = "08:00:00"  # of a job; a pair that it cuts off is started again in another job, at most three times
PARTITION = None  # for example "gpu"
ACCOUNT = None
INTERFACE = None  # network between login node and compute nodes, for example "ib0"

PAIRS = $pairs
OPTIONS = $options


def slurm_cluster(**options):
    """The cluster, without jobs."""
    return SLURMCluster(
        queue=PARTITION,
        account=ACCOUNT,
        cores=1,  # threads of the Dask worker, so that it takes one pair at a time
        job_cpu=CORES,
        processes=1,
        memory=MEMORY,
        walltime=WALLTIME,
        interface=INTERFACE,
        job_extra_directives=[f"--gres=gpu:{GPUS}"] if GPUS else [],
        **options,
    )


def main():
    """Submit the jobs and register all pairs."""
    logging.basicConfig(level=logging.WARNING)
    with slurm_cluster() as cluster:
        cluster.scale(jobs=JOBS)
        result = run_cohort(read_pairs(**PAIRS), scheduler=cluster.scheduler_address, threads=CORES, **OPTIONS)
    print(result.counts)


if __name__ == "__main__":
    main()
''')


def slurm_script(pairs: Mapping[str, Any], options: Mapping[str, Any], jobs: int = 8) -> str:
    """The text of a script that registers a cohort on SLURM. Its first lines have the settings of the jobs.

    Args:
        pairs: arguments of :func:`monai_locor.cohort.read_pairs`, plain values.
        options: arguments of :func:`monai_locor.cohort.run_cohort`, plain values or paths.
        jobs: number of SLURM jobs, each with one worker.
    """
    return TEMPLATE.substitute(version=__version__, jobs=jobs, pairs=_literal(pairs), options=_literal(options))


def _literal(values: Mapping[str, Any]) -> str:
    """Plain values as Python code."""
    plain = {name: str(value) if isinstance(value, PathLike) else value for name, value in values.items()}
    return pformat(plain, width=LINE_CHARACTERS, sort_dicts=False)
