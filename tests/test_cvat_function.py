"""The function module of CVAT, with CVAT's own types, driver and run lengths as the judge; no server."""
