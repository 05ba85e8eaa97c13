"""A durable job over real files: killed in the middle, gone on with, and exact all the same.

``python -m examples.ingest`` measures the sources of Python's standard library. Where to look:

- ``flows.py``: what happens to a file, step by step; this is the part that uses flowstate most.
- ``worker.py``: one process of the job. It goes on from wherever the log ends.
- ``__main__.py``: runs a worker that kills itself, then a second one, then compares.
- ``look.py``: queries to look into the store with.
- ``store.py``: which database file the job may begin or go on in.
- ``files.py``, ``measure.py``: which files, and their figures; these know nothing of flowstate.
- ``report.py``, ``progress.py``: what is shown.
"""
