"""The run directory: plan, journal of finished blocks, evidence, other processes, verification.

plan.json         what the run measures, written first; `oodattack run --resume DIR` goes by it
journal/          finished blocks of searches, named by a hash of all that decides them; gone when the run is
inputs/ clean/    the images before any attack, and their scores
shards/           adversarial images, exact and in 8 bits, with scores, distances, queries; 1024 rows a file
detectors/        what the detectors were fitted to
evidence.json     which file holds what
report.json       the report, and sheets/ beside it
manifest.json     SHA-256 of every file; written last
"""
