"""The format of a run on disk: :class:`.folder.RunFolder` reads it, :class:`.writer.RunWriter` writes it.

- config.yaml: the resolved options; ``--config`` takes it as it is
- metrics.csv: a row an epoch
- decisions.csv: mean P(teacher) at each spot by epoch and class, where a policy learns
- tensorboard/, csv/, wandb/: the same numbers, by whichever loggers were chosen
- loggers.json: by what number Weights & Biases or MLflow know the run
- last.ckpt, previous.ckpt: the complete state of training, and the one before it (see :mod:`.checkpoint`); a damaged
  one that a resumed run found is set aside as damaged.ckpt
- summary.json: the result; the last file to be written, so that a folder with it is a finished run
- student.safetensors: the trained network (model.safetensors for a run of ``spotkd train``); teacher.safetensors too
  where the strategy trains the teacher
- prepared.ckpt, preparation.csv: what a distiller learned before distillation, and its loss by epoch (ft, ab)
- nonfinite.json: the samples of the step that stopped a run because a number was not finite
- origin.txt: who made a run whose options name code (see :mod:`.origin`)
- options.yaml, log.txt, error.txt: what ``spotkd bench`` asked of the run, what the run printed, and why it failed
- .lock: held by the process that writes here
"""
