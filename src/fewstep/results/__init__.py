r"""Records: what was measured, and what made it.

One cell of an experiment (one run of its notebook with one set of parameters) leaves one file,
``data/results/<profile>/<experiment>/<cell>.json``: its provenance and its measurements. A file that does not fit the
schema below is refused with a line that names the file and the field. A notebook writes its record with

.. code-block:: python

    with results.recording(**record_as) as record:
        record.add("frechet_distance", 12.3, 11.9, 12.7, solver="ddim", grid="uniform", nfe=10, samples=1000, seeds=[0])

where ``record_as`` (profile, experiment, cell, parameters, the folder of the records) is handed in by the workflow. A
measurement of many samples is cut into jobs by drawing them through :meth:`~fewstep.results.recorder.Recorder.collect`.
What is to be measured stands in ``workflow/experiments.yml``, which :func:`~fewstep.results.experiments.cells` reads.
"""

from __future__ import annotations

from ..provenance import cell_key
from .comparison import Change, Comparison, compare
from .experiments import (
    TRAINING,
    Cell,
    Experiment,
    cells,
    is_training,
    made_by,
    planned,
    profiles,
    stale_cells,
    training,
    why_stale,
)
from .files import RESULTS, load, read, table, write
from .record import METRICS, TOLERANCE, Measurement, Provenance, Record
from .recorder import Recorder, recording

__all__ = [
    "METRICS",
    "RESULTS",
    "TOLERANCE",
    "TRAINING",
    "Cell",
    "Change",
    "Comparison",
    "Experiment",
    "Measurement",
    "Provenance",
    "Record",
    "Recorder",
    "cell_key",
    "cells",
    "compare",
    "is_training",
    "load",
    "made_by",
    "planned",
    "profiles",
    "read",
    "recording",
    "stale_cells",
    "table",
    "training",
    "why_stale",
    "write",
]
