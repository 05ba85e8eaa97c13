"""A third party's driver over LMDB; ``python -m flowstate.testcases examples.lmdb_driver.target``."""
