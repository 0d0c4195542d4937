"""The main job on one machine: a local cluster of real processes, the shipped pipelines, and a killed leader."""
