"""Telling people and programs how far a run is: log, files, Prometheus, and the operator."""
