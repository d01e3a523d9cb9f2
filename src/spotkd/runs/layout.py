"""What the files of a run are called."""

from __future__ import annotations

from ..models.weights import WEIGHT_FILES

CONFIG = "config.yaml"
METRICS = "metrics.csv"
DECISIONS = "decisions.csv"
TRIAL = "trial.csv"
SUMMARY = "summary.json"
LAST, PREVIOUS, DAMAGED = "last.ckpt", "previous.ckpt", "damaged.ckpt"
STUDENT, MODEL = WEIGHT_FILES  # the trained network of a distillation, and of plain training
TEACHER = "teacher.safetensors"
PREPARED, PREPARATION_LOSSES = "prepared.ckpt", "preparation.csv"
NONFINITE = "nonfinite.json"
LOGGERS = "loggers.json"
REOPENED = "reopened"  # there while a finished run is trained further; its result stays until the new one is complete
ORIGIN = "origin.txt"  # of a run whose options name code, see origin.py
REQUEST, LOG, ERROR = "options.yaml", "log.txt", "error.txt"  # of spotkd bench
LOCK = ".lock"

FILES = (
    CONFIG, METRICS, DECISIONS, TRIAL, LAST, PREVIOUS, DAMAGED, SUMMARY, STUDENT, TEACHER, MODEL, PREPARED,
    PREPARATION_LOSSES, NONFINITE, LOGGERS, ORIGIN, REOPENED,
)  # fmt: skip
TABLES = (METRICS, DECISIONS, TRIAL, PREPARATION_LOSSES)  # which grow by rows, and which a checkpoint holds too
RESULT = (SUMMARY, STUDENT, MODEL, TEACHER)
FOLDERS = ("tensorboard", "csv", "wandb")  # of loggers
