"""Train the small run of ``old_runs`` with the Headway that is on the path, and pack what the tests read.

``python make_run.py NAME`` writes NAME.zip beside this file. A file that is there is never made again: it is what a
Headway of its day wrote. A new one is due when a run's files change. The run has scores, circuits of edges and of
nodes, at a checkpoint and over all of them, and a study; those of the first days have scores alone.
"""

import os
import sys
import tempfile
import zipfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
MEASURED = ("loss", "attention", "previous_token", "rank_95")
LEFT_OUT = ("report.html", "resume.ckpt", "hparams.yaml", ".lock")
STEPS = (0, 20, 80)


def main() -> None:
    """Train a tiny network until it predicts the previous token, and take it apart."""
    import headway
    from headway.analyze import MEASURES
    from headway.checkpoints.schedule import Schedule
    from headway.data.previous_token import PreviousToken
    from headway.models.config import ModelConfig
    from headway.models.optim import OptimConfig

    target = HERE / f"{sys.argv[1]}.zip"
    if target.exists():
        sys.exit(f"{target} is there")
    with tempfile.TemporaryDirectory() as folder:
        # A study names its run as it was given, and no folder of this machine.
        os.chdir(folder)
        out = Path("run")
        run = headway.train(
            task=PreviousToken(n_tokens=6, length=5),
            model=ModelConfig(n_layers=1, d_model=11, n_ctx=5, d_head=7, n_heads=2, d_vocab=7, attn_only=True),
            optim=OptimConfig(lr=0.03),
            schedule=Schedule(log=0, linear=0, at=STEPS),
            steps=STEPS[-1],
            batch_size=31,
            eval_batch_size=13,
            seed=2,
            out=out,
            measures=[measure for measure in MEASURES if measure.name in MEASURED],
        )
        headway.circuit(run, nodes=True)
        headway.study("previous-token", run, sequences=13)
        with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
            for file in sorted(out.rglob("*")):
                if file.is_file() and file.name not in LEFT_OUT and "tfevents" not in file.name:
                    archive.write(file, str(file.relative_to(out)))
        print(run.summary())


if __name__ == "__main__":
    main()
