"""Measures the product as it stands: on this machine, this database and this broker.

`measures` holds what is measured, `jobs` the jobs it is measured with, `processes` the
cluster and the broker that are started for it, `machine` how quiet the machine was.
"""
